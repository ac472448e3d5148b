// The fields that job and sweep specs share are checked by one template.
#include "server/scheduler/spec_checks.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/scheduler/errors.h"

namespace quantd {
namespace {

constexpr size_t kDisplayNameMax = 200;
constexpr int kPriorityMax = 1000;
constexpr int kAttemptsMax = 100;  // More is a loop, not a retry.
constexpr int kLabelsMax = 64;
constexpr size_t kLabelMax = 128;
constexpr size_t kRequestIdMax = 36;                 // A UUID's text.
constexpr int64_t kDurationSecondsMax = 31'536'000;  // A year: larger ones are mistakes of unit.

absl::Status CheckDuration(const google::protobuf::Duration& duration, absl::string_view field) {
  if (duration.seconds() >= 0 && duration.seconds() <= kDurationSecondsMax &&
      duration.nanos() >= 0 && duration.nanos() < 1'000'000'000 &&
      (duration.seconds() > 0 || duration.nanos() > 0)) {
    return absl::OkStatus();
  }
  return FieldError(field,
                    "has to be longer than 0 s and at most a year; leave it out for the default");
}

absl::Status CheckLimits(const v1::Limits& limits) {
  if (limits.has_queue_time()) {
    QD_RETURN_IF_ERROR(CheckDuration(limits.queue_time(), "spec.limits.queue_time"));
  }
  if (limits.has_run_time()) {
    QD_RETURN_IF_ERROR(CheckDuration(limits.run_time(), "spec.limits.run_time"));
  }
  if (limits.has_no_progress_time()) {
    QD_RETURN_IF_ERROR(CheckDuration(limits.no_progress_time(), "spec.limits.no_progress_time"));
  }
  return absl::OkStatus();
}

absl::Status CheckRetry(const v1::RetryPolicy& retry) {
  if (retry.max_attempts() < 0 || retry.max_attempts() > kAttemptsMax) {
    return FieldError("spec.retry.max_attempts",
                      absl::StrCat(retry.max_attempts(), " is not in 0 ... ", kAttemptsMax));
  }
  if (retry.has_backoff()) {
    QD_RETURN_IF_ERROR(CheckDuration(retry.backoff(), "spec.retry.backoff"));
  }
  if (retry.has_backoff_max()) {
    QD_RETURN_IF_ERROR(CheckDuration(retry.backoff_max(), "spec.retry.backoff_max"));
  }
  return absl::OkStatus();
}

absl::Status CheckRequirements(const v1::Requirements& requirements) {
  const std::string& device = requirements.device();
  if (!device.empty() && device != "cpu" && device != "cuda") {
    return FieldError("spec.requirements.device",
                      absl::StrCat("\"", device.substr(0, 50), "\" is none of cpu, cuda"));
  }
  if (requirements.device_memory_bytes() < 0) {
    return FieldError("spec.requirements.device_memory_bytes", "is negative");
  }
  if (requirements.host_memory_bytes() < 0) {
    return FieldError("spec.requirements.host_memory_bytes", "is negative");
  }
  return absl::OkStatus();
}

template <typename Spec>
absl::Status CheckCommon(const Spec& spec) {
  if (spec.display_name().size() > kDisplayNameMax) {
    return FieldError("spec.display_name", absl::StrCat("has ", spec.display_name().size(),
                                                        " bytes; at most ", kDisplayNameMax));
  }
  if (spec.priority() < -kPriorityMax || spec.priority() > kPriorityMax) {
    return FieldError("spec.priority", absl::StrCat(spec.priority(), " is not in -", kPriorityMax,
                                                    " ... ", kPriorityMax));
  }
  if (spec.labels_size() > kLabelsMax) {
    return FieldError("spec.labels",
                      absl::StrCat("has ", spec.labels_size(), " entries; at most ", kLabelsMax));
  }
  for (const auto& [key, value] : spec.labels()) {
    if (key.empty() || key.size() > kLabelMax || value.size() > kLabelMax) {
      return FieldError("spec.labels", absl::StrCat("keys have 1 and values 0 to ", kLabelMax,
                                                    " bytes; \"", key.substr(0, 50), "\" has not"));
    }
  }
  QD_RETURN_IF_ERROR(CheckLimits(spec.limits()));
  QD_RETURN_IF_ERROR(CheckRetry(spec.retry()));
  return CheckRequirements(spec.requirements());
}

}  // namespace

absl::Status CheckJobSpec(const v1::JobSpec& spec) {
  if (spec.kind_case() == v1::JobSpec::KIND_NOT_SET) {
    return FieldError("spec", "has none of quantize, evaluate, benchmark, verify, compare, report");
  }
  if (spec.dependencies_size() > kDependenciesMax) {
    return FieldError("spec.dependencies", absl::StrCat("has ", spec.dependencies_size(),
                                                        " entries; at most ", kDependenciesMax));
  }
  return CheckCommon(spec);
}

absl::Status CheckSweepSpec(const v1::SweepSpec& spec) {
  if (spec.max_parallel() < 0) return FieldError("spec.max_parallel", "is negative");
  return CheckCommon(spec);
}

absl::Status CheckRequestId(absl::string_view request_id) {
  const bool printable = std::all_of(request_id.begin(), request_id.end(),
                                     [](char c) { return absl::ascii_isgraph(c); });
  if (request_id.size() <= kRequestIdMax && printable) return absl::OkStatus();
  return FieldError("request_id",
                    absl::StrCat("has to be at most ", kRequestIdMax,
                                 " printable ASCII characters without spaces, a UUID for example"));
}

}  // namespace quantd
