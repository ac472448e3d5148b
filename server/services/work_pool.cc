// One deque, one mutex: the work itself takes tens of microseconds and more.
#include "server/services/work_pool.h"

#include <utility>

namespace quantd {
namespace {
// Seconds of work at a thousand calls a second; beyond it waiting callers have given up.
constexpr size_t kWaitingMax = 10'000;
}  // namespace

WorkPool::WorkPool(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
}

WorkPool::~WorkPool() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

bool WorkPool::Post(std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  if (work_.size() >= kWaitingMax) return false;
  work_.push_back(std::move(work));
  return true;
}

void WorkPool::PostAlways(std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  work_.push_back(std::move(work));
}

void WorkPool::Loop() {
  for (;;) {
    std::function<void()> work;
    {
      absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stop_ || !work_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      if (work_.empty()) return;
      work = std::move(work_.front());
      work_.pop_front();
    }
    work();
  }
}

}  // namespace quantd
