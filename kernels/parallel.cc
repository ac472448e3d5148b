// Threads are started for each call: 20 us each against the millisecond or more that a call is
// worth.
#include "kernels/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "kernels/multiversion.h"

namespace quantd::kernels {
namespace {
std::atomic<int> thread_limit = 0;

// Below about a tenth of a millisecond of work a second thread costs more than it gives.
constexpr int64_t kOperationsPerThread = 1 << 19;
}  // namespace

void SetThreads(int threads) { thread_limit = std::max(0, threads); }

void ParallelRows(int64_t rows, int64_t operations,
                  const std::function<void(int64_t, int64_t)>& work) {
  const int limit = thread_limit > 0 ? thread_limit.load()
                                     : static_cast<int>(std::thread::hardware_concurrency());
  const int64_t tiles = (rows + kLanes - 1) / kLanes;
  const int64_t threads = std::clamp<int64_t>(std::min(operations / kOperationsPerThread, tiles), 1,
                                              std::max(limit, 1));
  if (threads == 1) {
    work(0, rows);
    return;
  }
  const int64_t share = (tiles + threads - 1) / threads * kLanes;
  std::vector<std::thread> others;
  for (int64_t begin = share; begin < rows; begin += share) {
    others.emplace_back(work, begin, std::min(begin + share, rows));
  }
  work(0, std::min(share, rows));
  for (std::thread& other : others) other.join();
}

}  // namespace quantd::kernels
