// The machine's clocks, and one for tests.
#include "base/clock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>

#include "absl/base/config.h"
#include "absl/synchronization/internal/create_thread_identity.h"
#include "absl/synchronization/internal/kernel_timeout.h"
#include "absl/synchronization/internal/waiter.h"

// Abseil up to this release waits for moments of the wall clock. Who waits for 200 ms while the
// clock is set back by an hour waits an hour: all timed waits of ours, and gRPC's timers. This
// takes the place of Abseil's definition, which is weak for such uses, and waits by the clock that
// does not jump; later releases do that themselves.
#if ABSL_LTS_RELEASE_VERSION <= 20220623 && !defined(ABSL_HAVE_THREAD_SANITIZER)
static_assert(ABSL_WAITER_MODE == ABSL_WAITER_MODE_FUTEX);

extern "C" bool ABSL_INTERNAL_C_SYMBOL(AbslInternalPerThreadSemWait)(
    absl::synchronization_internal::KernelTimeout until) {
  auto* identity = absl::synchronization_internal::GetOrCreateCurrentThreadIdentity();
  // What Post counts up and wakes.
  auto* count = reinterpret_cast<std::atomic<int32_t>*>(identity->waiter_state.data);
  absl::Duration end = absl::InfiniteDuration();
  const auto monotonic = [] { return quantd::Clock::Real().Monotonic(); };
  if (until.has_timeout()) {
    // Not absl::Now(), which extrapolates and is late after a jump.
    timespec wall = {};
    clock_gettime(CLOCK_REALTIME, &wall);
    end = monotonic() +
          (absl::TimeFromTimespec(until.MakeAbsTimespec()) - absl::TimeFromTimespec(wall));
  }
  while (true) {
    for (int32_t posts = count->load(std::memory_order_relaxed); posts != 0;) {
      if (count->compare_exchange_weak(posts, posts - 1, std::memory_order_acquire)) return true;
    }
    const absl::Duration left = end - monotonic();
    if (left <= absl::ZeroDuration()) return false;
    const timespec limit = absl::ToTimespec(left);
    syscall(SYS_futex, count, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0,
            until.has_timeout() ? &limit : nullptr);
  }
}
#endif

namespace quantd {
namespace {

class RealClock : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
  absl::Duration Monotonic() const override {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return absl::DurationFromTimespec(now);
  }
};

}  // namespace

Clock& Clock::Real() {
  static RealClock clock;
  return clock;
}

absl::Time FakeClock::Now() const {
  absl::MutexLock lock(&mutex_);
  return now_;
}

absl::Duration FakeClock::Monotonic() const {
  absl::MutexLock lock(&mutex_);
  return monotonic_;
}

void FakeClock::Advance(absl::Duration by) {
  absl::MutexLock lock(&mutex_);
  now_ += by;
  monotonic_ += by;
}

void FakeClock::JumpWall(absl::Duration by) {
  absl::MutexLock lock(&mutex_);
  now_ += by;
}

}  // namespace quantd
