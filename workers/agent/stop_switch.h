// Why and how an attempt is to end early: one request, seen by downloads, by uploads and by the
// loop that watches the engine.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <string>

#include "absl/synchronization/mutex.h"
#include "workers/agent/cancel_scope.h"

namespace quantd {

enum class StopReason { kNone, kCancelled, kRunTimeout, kDraining, kLeaseLost };

// Thread-safe.
class StopSwitch {
 public:
  StopSwitch() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~StopSwitch() { close(fd_); }
  StopSwitch(const StopSwitch&) = delete;
  StopSwitch& operator=(const StopSwitch&) = delete;

  // The first request counts, except that a lost lease outdoes all others.
  void Request(StopReason reason) {
    absl::MutexLock lock(&mutex_);
    if (reason_ == StopReason::kNone || reason == StopReason::kLeaseLost) reason_ = reason;
    inputs_.Cancel();
    // A worker that drains still stores its checkpoint; in all other cases nobody wants the files.
    if (reason_ != StopReason::kDraining) outputs_.Cancel();
    Wake();
  }
  // The time for stopping in good order is over.
  void Hurry() {
    absl::MutexLock lock(&mutex_);
    hurry_ = true;
    inputs_.Cancel();
    outputs_.Cancel();
    Wake();
  }

  StopReason reason() const {
    absl::MutexLock lock(&mutex_);
    return reason_;
  }
  bool hurry() const {
    absl::MutexLock lock(&mutex_);
    return hurry_;
  }
  // Becomes readable with every Request, Hurry and Wake; to be read by one loop.
  int fd() const { return fd_; }
  void Wake() const { eventfd_write(fd_, 1); }
  CancelScope& inputs() { return inputs_; }
  CancelScope& outputs() { return outputs_; }

 private:
  const int fd_;
  mutable absl::Mutex mutex_;
  StopReason reason_ ABSL_GUARDED_BY(mutex_) = StopReason::kNone;
  bool hurry_ ABSL_GUARDED_BY(mutex_) = false;
  CancelScope inputs_;
  CancelScope outputs_;
};

}  // namespace quantd
