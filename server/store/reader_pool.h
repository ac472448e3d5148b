// A few connections for reads, opened when needed and kept: readers beyond them wait. A connection
// that is given back broken is closed.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace quantd {

template <typename Connection>
class ReaderPool {
 public:
  using OpenFn = std::function<absl::StatusOr<std::unique_ptr<Connection>>()>;
  explicit ReaderPool(OpenFn open) : open_(std::move(open)) {}

  // Every success is to be followed by Give.
  absl::StatusOr<std::unique_ptr<Connection>> Take() {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](ReaderPool* pool) ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return !pool->idle_.empty() || pool->out_ < kReadersMax;
          },
          this));
      ++out_;
      if (!idle_.empty()) {
        auto reader = std::move(idle_.back());
        idle_.pop_back();
        return reader;
      }
    }
    auto opened = open_();
    if (!opened.ok()) Give(nullptr);
    return opened;
  }
  // Null: the connection is gone.
  void Give(std::unique_ptr<Connection> reader) {
    absl::MutexLock lock(&mutex_);
    --out_;
    if (reader != nullptr) idle_.push_back(std::move(reader));
  }

 private:
  static constexpr size_t kReadersMax = 8;  // More would only fight for two cores.

  const OpenFn open_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_ ABSL_GUARDED_BY(mutex_);
  size_t out_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace quantd
