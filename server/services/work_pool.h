// A few threads for work that blocks (database reads, disk), so that gRPC's own threads never do.
// Bounded: when too much waits, new work is refused and the caller answers UNAVAILABLE.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace quantd {

class WorkPool {
 public:
  explicit WorkPool(int threads);
  // Runs what was posted, then ends.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // False: the queue is full and `work` will not run. Thread-safe.
  [[nodiscard]] bool Post(std::function<void()> work);
  // The same without the bound: for the steps of streams, whose number is bounded by the streams.
  void PostAlways(std::function<void()> work);

 private:
  void Loop();

  absl::Mutex mutex_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quantd
