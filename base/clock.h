// Time passed in, so that what depends on it can be tested without waiting.
#pragma once

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace quantd {

class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time: for records that people read and that outlive the process.
  virtual absl::Time Now() const = 0;
  // Time that never jumps: for deadlines inside the process. The origin means nothing.
  virtual absl::Duration Monotonic() const = 0;

  static Clock& Real();
};

// A clock that stands until it is moved. Thread-safe.
class FakeClock : public Clock {
 public:
  explicit FakeClock(absl::Time start = absl::FromUnixSeconds(1'750'000'000)) : now_(start) {}
  absl::Time Now() const override;
  absl::Duration Monotonic() const override;
  void Advance(absl::Duration by);
  // Moves the wall clock alone, as an administrator or NTP would.
  void JumpWall(absl::Duration by);

 private:
  mutable absl::Mutex mutex_;
  absl::Time now_;
  absl::Duration monotonic_ = absl::Hours(1);
};

}  // namespace quantd
