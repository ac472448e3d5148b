// The table below is the whole machine; transitions_test.cc walks over every cell.
#include "server/scheduler/transitions.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace quantd {
namespace {

constexpr int kRefused = 0;
constexpr int kP = v1::JOB_STATE_PENDING;
constexpr int kQ = v1::JOB_STATE_QUEUED;
constexpr int kR = v1::JOB_STATE_RUNNING;
constexpr int kCg = v1::JOB_STATE_CANCELLING;
constexpr int kOk = v1::JOB_STATE_SUCCEEDED;
constexpr int kF = v1::JOB_STATE_FAILED;
constexpr int kCd = v1::JOB_STATE_CANCELLED;
constexpr int kSk = v1::JOB_STATE_SKIPPED;
constexpr int k__ = kRefused;

struct Row {
  const char* command;
  int next[kJobStateCount];
};

// clang-format off
constexpr Row kTable[kJobCommandCount] = {
  //                   -    PENDING QUEUED RUNNING CANCELLING SUCCEEDED FAILED CANCELLED SKIPPED
  {"dependencies met",  {k__, kQ,     k__,   k__,    k__,       k__,      k__,   k__,      k__}},
  {"dependency failed", {k__, kSk,    k__,   k__,    k__,       k__,      k__,   k__,      k__}},
  {"lease",             {k__, k__,    kR,    k__,    k__,       k__,      k__,   k__,      k__}},
  {"succeed",           {k__, k__,    k__,   kOk,    kOk,       k__,      k__,   k__,      k__}},
  {"fail",              {k__, k__,    kF,    kF,     kCd,       k__,      k__,   k__,      k__}},
  {"fail and try again",{k__, k__,    k__,   kQ,     kCd,       k__,      k__,   k__,      k__}},
  {"cancelled by worker", {k__, k__,    k__,   k__,    kCd,       k__,      k__,   k__,      k__}},
  {"release",           {k__, k__,    k__,   kQ,     kCd,       k__,      k__,   k__,      k__}},
  {"cancel",            {k__, kCd,    kCd,   kCg,    kCg,       kOk,      kF,    kCd,      kSk}},
  {"cancel overdue",    {k__, k__,    k__,   k__,    kCd,       k__,      k__,   k__,      k__}},
  {"retry",             {k__, kP,     kQ,    kR,     kCg,       k__,      kP,    kP,       kP}},
  {"redo",              {k__, kP,     kQ,    kR,     kCg,       kP,       kP,    kP,       kP}},
};
// clang-format on

}  // namespace

absl::StatusOr<v1::JobState> NextState(v1::JobState state, JobCommand command) {
  const Row& row = kTable[static_cast<int>(command)];
  if (state > 0 && state < kJobStateCount && row.next[state] != kRefused) {
    return static_cast<v1::JobState>(row.next[state]);
  }
  return absl::FailedPreconditionError(
      absl::StrCat("\"", row.command, "\" is not possible for a job that is ", StateWord(state)));
}

absl::string_view StateWord(v1::JobState state) {
  const std::string& name = v1::JobState_Name(state);  // Lives as long as the program.
  return name.empty() ? "UNKNOWN" : absl::StripPrefix(name, "JOB_STATE_");
}

absl::string_view CommandWord(JobCommand command) {
  return kTable[static_cast<int>(command)].command;
}

FailureRule RuleOf(v1::ErrorClass error_class) {
  switch (error_class) {
    case v1::ERROR_CLASS_INPUT_UNAVAILABLE:
    case v1::ERROR_CLASS_DISK_FULL:
    case v1::ERROR_CLASS_DEVICE_FAULT:
    case v1::ERROR_CLASS_NO_PROGRESS:
    case v1::ERROR_CLASS_ENGINE_CRASH:
    case v1::ERROR_CLASS_WORKER_LOST:
      return {.retried = true, .counts = true};
    case v1::ERROR_CLASS_PREEMPTED:
      return {.retried = true, .counts = false};
    case v1::ERROR_CLASS_INVALID_SPEC:
    case v1::ERROR_CLASS_BAD_INPUT:
    case v1::ERROR_CLASS_OUT_OF_MEMORY:
    case v1::ERROR_CLASS_QUEUE_TIMEOUT:
    case v1::ERROR_CLASS_RUN_TIMEOUT:
    case v1::ERROR_CLASS_VERIFICATION_FAILED:
    case v1::ERROR_CLASS_CANCELLED:
    case v1::ERROR_CLASS_INTERNAL:
    case v1::ERROR_CLASS_UNSPECIFIED:
    case v1::ErrorClass_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::ErrorClass_INT_MAX_SENTINEL_DO_NOT_USE_:
      break;
  }
  return {.retried = false, .counts = true};
}

absl::Duration Backoff(const v1::RetryPolicy& policy, int64_t n, uint64_t random) {
  const absl::Duration first = policy.has_backoff() ? FromProto(policy.backoff()) : kDefaultBackoff;
  const absl::Duration most =
      policy.has_backoff_max() ? FromProto(policy.backoff_max()) : kDefaultBackoffMax;
  const double doublings = static_cast<double>(std::clamp<int64_t>(n - 1, 0, 40));
  const absl::Duration pause = std::min(most, first * std::exp2(doublings));
  const double share = 0.5 + 0.5 * static_cast<double>(random >> 11) * 0x1p-53;
  return std::max(absl::ZeroDuration(), pause) * share;
}

RetryDecision DecideRetry(v1::ErrorClass error_class, const v1::RetryPolicy& policy,
                          int64_t counted, uint64_t random) {
  const FailureRule rule = RuleOf(error_class);
  if (!rule.retried) return {};
  if (!rule.counts) return {.again = true, .pause = absl::ZeroDuration(), .final_why = ""};
  const int64_t max_attempts =
      policy.max_attempts() > 0 ? policy.max_attempts() : kDefaultMaxAttempts;
  if (counted >= max_attempts) {
    return {.again = false,
            .pause = absl::ZeroDuration(),
            .final_why = absl::StrCat(counted, " of ", max_attempts, " attempts used")};
  }
  return {.again = true, .pause = Backoff(policy, counted, random), .final_why = ""};
}

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

google::protobuf::Timestamp ToProto(absl::Time time) {
  const google::protobuf::Duration since = ToProto(time - absl::UnixEpoch());
  google::protobuf::Timestamp proto;
  proto.set_seconds(since.seconds());
  proto.set_nanos(since.nanos());
  return proto;
}

}  // namespace quantd
