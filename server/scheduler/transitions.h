// The life of a job as a pure state machine: which command leads from which state to which, and
// what a failed attempt means. No store, no time, no randomness of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/job.pb.h"

namespace quantd {

enum class JobCommand {
  kDependenciesMet,   // every dependency is satisfied
  kDependencyFailed,  // one can never be
  kLease,             // a worker took it
  kSucceed,           // the worker's outcome
  kFail,              // for good: the worker's outcome, a lost lease or a clock
  kFailAgain,         // the same, to be tried again
  kWorkerCancelled,   // the worker stopped because it was asked to
  kRelease,           // the worker gave it back undone
  kCancel,            // the user's wish
  kCancelOverdue,     // the worker did not stop in time
  kRetry,             // the user's wish
  kRedo,  // the same, for a job that succeeded on inputs that change now (a sweep's report)
};
inline constexpr int kJobCommandCount = 12;
inline constexpr int kJobStateCount = 9;  // With JOB_STATE_UNSPECIFIED.

// The state that `command` leads to, which is `state` itself where the command means nothing any
// more (a second cancel). FailedPrecondition where it must not happen.
absl::StatusOr<v1::JobState> NextState(v1::JobState state, JobCommand command);

inline bool IsEnded(v1::JobState state) { return state >= v1::JOB_STATE_SUCCEEDED; }
inline bool IsLeased(v1::JobState state) {
  return state == v1::JOB_STATE_RUNNING || state == v1::JOB_STATE_CANCELLING;
}
// "QUEUED".
absl::string_view StateWord(v1::JobState state);
absl::string_view CommandWord(JobCommand command);

// What a class of failure means for the next attempt.
struct FailureRule {
  bool retried = false;
  bool counts = true;  // consumes an attempt
};
FailureRule RuleOf(v1::ErrorClass error_class);

inline constexpr int kDefaultMaxAttempts = 3;
inline constexpr absl::Duration kDefaultBackoff = absl::Seconds(1);
inline constexpr absl::Duration kDefaultBackoffMax = absl::Minutes(5);
inline constexpr absl::Duration kDefaultNoProgress = absl::Minutes(15);

struct RetryDecision {
  bool again = false;
  absl::Duration pause;  // if again
  std::string
      final_why;  // if not, and the class alone would have allowed it: "3 of 3 attempts used"
};

// `counted`: attempts since the last new checkpoint, with the one that just failed, if it counts.
// `random`: 64 bits for the jitter.
RetryDecision DecideRetry(v1::ErrorClass error_class, const v1::RetryPolicy& policy,
                          int64_t counted, uint64_t random);

// backoff × 2^(n-1), at most backoff_max, and of that between a half and all, so that a crowd does
// not come back at one moment. n >= 1.
absl::Duration Backoff(const v1::RetryPolicy& policy, int64_t n, uint64_t random);

absl::Duration FromProto(const google::protobuf::Duration& duration);
google::protobuf::Duration ToProto(absl::Duration duration);
google::protobuf::Timestamp ToProto(absl::Time time);

}  // namespace quantd
