// One switch that ends a piece of work early: it cancels the calls in flight that were made under
// it and wakes who waits between two tries. Once cancelled it stays so.
#pragma once

#include <grpcpp/client_context.h>

#include <atomic>
#include <random>
#include <set>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace quantd {

// Thread-safe.
class CancelScope {
 public:
  void Cancel();
  bool cancelled() const { return cancelled_.load(); }
  // Waits; false as soon as the scope is cancelled.
  bool SleepFor(absl::Duration duration);

  // A client context that Cancel() reaches. Lives no longer than the scope.
  class Call {
   public:
    // An infinite deadline is for streams, which watch over their own progress.
    Call(CancelScope& scope, absl::Duration deadline);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    grpc::ClientContext context;

   private:
    CancelScope& scope_;
  };

 private:
  absl::Mutex mutex_;
  std::atomic<bool> cancelled_{false};
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

// Growing pauses between tries, with jitter so that a thousand workers do not come back in one
// moment.
class Backoff {
 public:
  explicit Backoff(absl::Duration first = absl::Milliseconds(100),
                   absl::Duration max = absl::Seconds(5))
      : first_(first), max_(max), random_(std::random_device{}()) {}
  // Between half and one and a half of first * 2^n.
  absl::Duration Next();
  void Reset() { tries_ = 0; }
  int tries() const { return tries_; }

 private:
  const absl::Duration first_;
  const absl::Duration max_;
  int tries_ = 0;
  std::minstd_rand random_;
};

}  // namespace quantd
