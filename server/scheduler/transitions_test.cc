// Every cell of the table, every error class, and the bounds of the pauses.
#include "server/scheduler/transitions.h"

#include <gtest/gtest.h>

#include <map>
#include <utility>

namespace quantd {
namespace {

constexpr v1::JobState kPending = v1::JOB_STATE_PENDING;
constexpr v1::JobState kQueued = v1::JOB_STATE_QUEUED;
constexpr v1::JobState kRunning = v1::JOB_STATE_RUNNING;
constexpr v1::JobState kCancelling = v1::JOB_STATE_CANCELLING;
constexpr v1::JobState kSucceeded = v1::JOB_STATE_SUCCEEDED;
constexpr v1::JobState kFailed = v1::JOB_STATE_FAILED;
constexpr v1::JobState kCancelled = v1::JOB_STATE_CANCELLED;
constexpr v1::JobState kSkipped = v1::JOB_STATE_SKIPPED;

TEST(Transitions, EveryStateAndCommand) {
  using C = JobCommand;
  // All that is allowed; everything else has to be refused.
  const std::map<std::pair<C, v1::JobState>, v1::JobState> allowed = {
      {{C::kDependenciesMet, kPending}, kQueued},
      {{C::kDependencyFailed, kPending}, kSkipped},
      {{C::kLease, kQueued}, kRunning},
      {{C::kSucceed, kRunning}, kSucceeded},
      {{C::kSucceed, kCancelling}, kSucceeded},
      {{C::kFail, kQueued}, kFailed},
      {{C::kFail, kRunning}, kFailed},
      {{C::kFail, kCancelling}, kCancelled},
      {{C::kFailAgain, kRunning}, kQueued},
      {{C::kFailAgain, kCancelling}, kCancelled},
      {{C::kWorkerCancelled, kCancelling}, kCancelled},
      {{C::kRelease, kRunning}, kQueued},
      {{C::kRelease, kCancelling}, kCancelled},
      {{C::kCancel, kPending}, kCancelled},
      {{C::kCancel, kQueued}, kCancelled},
      {{C::kCancel, kRunning}, kCancelling},
      {{C::kCancel, kCancelling}, kCancelling},
      {{C::kCancel, kSucceeded}, kSucceeded},
      {{C::kCancel, kFailed}, kFailed},
      {{C::kCancel, kCancelled}, kCancelled},
      {{C::kCancel, kSkipped}, kSkipped},
      {{C::kCancelOverdue, kCancelling}, kCancelled},
      {{C::kRetry, kPending}, kPending},
      {{C::kRetry, kQueued}, kQueued},
      {{C::kRetry, kRunning}, kRunning},
      {{C::kRetry, kCancelling}, kCancelling},
      {{C::kRetry, kFailed}, kPending},
      {{C::kRetry, kCancelled}, kPending},
      {{C::kRetry, kSkipped}, kPending},
      {{C::kRedo, kPending}, kPending},
      {{C::kRedo, kQueued}, kQueued},
      {{C::kRedo, kRunning}, kRunning},
      {{C::kRedo, kCancelling}, kCancelling},
      {{C::kRedo, kSucceeded}, kPending},
      {{C::kRedo, kFailed}, kPending},
      {{C::kRedo, kCancelled}, kPending},
      {{C::kRedo, kSkipped}, kPending},
  };
  for (int command = 0; command < kJobCommandCount; ++command) {
    for (int state = 0; state < kJobStateCount; ++state) {
      const auto key = std::pair(static_cast<C>(command), static_cast<v1::JobState>(state));
      const auto next = NextState(key.second, key.first);
      const auto expected = allowed.find(key);
      SCOPED_TRACE(absl::StrCat(CommandWord(key.first), " in ", StateWord(key.second)));
      if (expected == allowed.end()) {
        EXPECT_EQ(next.status().code(), absl::StatusCode::kFailedPrecondition);
      } else {
        ASSERT_TRUE(next.ok()) << next.status();
        EXPECT_EQ(*next, expected->second);
      }
    }
  }
}

TEST(Transitions, ClassesAreRetriedAsTheApiSays) {
  const std::map<v1::ErrorClass, FailureRule> retried = {
      {v1::ERROR_CLASS_INPUT_UNAVAILABLE, {true, true}},
      {v1::ERROR_CLASS_DISK_FULL, {true, true}},
      {v1::ERROR_CLASS_ENGINE_CRASH, {true, true}},
      {v1::ERROR_CLASS_DEVICE_FAULT, {true, true}},
      {v1::ERROR_CLASS_WORKER_LOST, {true, true}},
      {v1::ERROR_CLASS_PREEMPTED, {true, false}},
      {v1::ERROR_CLASS_NO_PROGRESS, {true, true}},
  };
  for (int number = v1::ErrorClass_MIN; number <= v1::ErrorClass_MAX; ++number) {
    const auto error_class = static_cast<v1::ErrorClass>(number);
    const auto found = retried.find(error_class);
    const FailureRule expected = found == retried.end() ? FailureRule{} : found->second;
    const FailureRule rule = RuleOf(error_class);
    SCOPED_TRACE(v1::ErrorClass_Name(error_class));
    EXPECT_EQ(rule.retried, expected.retried);
    EXPECT_EQ(rule.counts, expected.counts);
  }
}

TEST(Transitions, BudgetAndPreemption) {
  const v1::RetryPolicy standard;
  EXPECT_TRUE(DecideRetry(v1::ERROR_CLASS_DISK_FULL, standard, 2, 0).again);
  EXPECT_FALSE(DecideRetry(v1::ERROR_CLASS_DISK_FULL, standard, 3, 0).again);
  v1::RetryPolicy once;
  once.set_max_attempts(1);
  EXPECT_FALSE(DecideRetry(v1::ERROR_CLASS_DISK_FULL, once, 1, 0).again);
  EXPECT_TRUE(DecideRetry(v1::ERROR_CLASS_PREEMPTED, once, 99, 0).again);
}

TEST(Transitions, PausesDoubleWithJitterUpToTheMaximum) {
  const v1::RetryPolicy standard;
  for (int64_t n = 1; n <= 60; ++n) {
    const absl::Duration whole =
        n > 20 ? kDefaultBackoffMax
               : std::min(kDefaultBackoffMax, absl::Seconds(int64_t{1} << (n - 1)));
    EXPECT_EQ(Backoff(standard, n, 0), whole / 2);
    EXPECT_LE(Backoff(standard, n, ~uint64_t{0}), whole);
    EXPECT_GT(Backoff(standard, n, ~uint64_t{0}), whole * 0.999);
  }
}

TEST(Transitions, DurationsAndTimesSurviveTheProto) {
  for (const absl::Duration d : {absl::ZeroDuration(), absl::Milliseconds(1500),
                                 -absl::Milliseconds(1500), absl::Hours(24 * 365)}) {
    EXPECT_EQ(FromProto(ToProto(d)), d);
  }
  EXPECT_EQ(ToProto(absl::FromUnixMillis(1'750'000'000'250)).nanos(), 250'000'000);
}

}  // namespace
}  // namespace quantd
