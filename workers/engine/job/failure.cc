// One table: class, name in the proto, and what a user can do.
#include "workers/engine/job/failure.h"

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace quantd::engine {
namespace {

constexpr char kClassPayload[] = "quantd.error_class";
constexpr absl::string_view kPrefix = "ERROR_CLASS_";
constexpr char kRemedyPayload[] = "quantd.remedy";

struct ClassRow {
  ErrorClass error_class;
  absl::string_view name;
  absl::string_view remedy;
};

constexpr ClassRow kClasses[] = {
    {ErrorClass::kInvalidSpec, "ERROR_CLASS_INVALID_SPEC",
     "Correct the field that the message names and submit again."},
    {ErrorClass::kBadInput, "ERROR_CLASS_BAD_INPUT",
     "Check the file that the message names; download or export it again if it is damaged."},
    {ErrorClass::kInputUnavailable, "ERROR_CLASS_INPUT_UNAVAILABLE",
     "It is tried again by itself; if it persists, check the network and the source."},
    {ErrorClass::kOutOfMemory, "ERROR_CLASS_OUT_OF_MEMORY",
     "Use a smaller batch or sequence length, raise the memory limit in runtime, or require a "
     "worker with more memory."},
    {ErrorClass::kDiskFull, "ERROR_CLASS_DISK_FULL",
     "Free space on the worker's disk, or add a worker with a larger one."},
    {ErrorClass::kDeviceFault, "ERROR_CLASS_DEVICE_FAULT",
     "It is tried again on another worker; check the accelerator's health."},
    {ErrorClass::kVerificationFailed, "ERROR_CLASS_VERIFICATION_FAILED",
     "Do not use this checkpoint: quantize again, and report the failed checks if they fail "
     "again."},
    {ErrorClass::kCancelled, "ERROR_CLASS_CANCELLED",
     "Retry the job to go on from its checkpoint."},
    {ErrorClass::kInternal, "ERROR_CLASS_INTERNAL",
     "This is a mistake of quantd: please report it with the job's log."},
};

const ClassRow& RowOf(ErrorClass error_class) {
  for (const ClassRow& row : kClasses) {
    if (row.error_class == error_class) return row;
  }
  return kClasses[static_cast<int>(std::size(kClasses)) - 1];
}

}  // namespace

absl::string_view ErrorClassName(ErrorClass error_class) { return RowOf(error_class).name; }

absl::Status WithErrorClass(absl::Status status, ErrorClass error_class) {
  if (!status.ok())
    status.SetPayload(kClassPayload,
                      absl::Cord(absl::StripPrefix(ErrorClassName(error_class), kPrefix)));
  return status;
}

absl::Status WithRemedy(absl::Status status, absl::string_view remedy) {
  if (!status.ok()) status.SetPayload(kRemedyPayload, absl::Cord(remedy));
  return status;
}

ErrorClass ErrorClassOf(const absl::Status& status) {
  if (absl::optional<absl::Cord> payload = status.GetPayload(kClassPayload)) {
    for (const ClassRow& row : kClasses) {
      if (*payload == absl::StripPrefix(row.name, kPrefix)) return row.error_class;
    }
  }
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return ErrorClass::kInvalidSpec;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return ErrorClass::kBadInput;
    case absl::StatusCode::kResourceExhausted:
      return absl::StrContains(status.message(), std::strerror(ENOSPC)) ? ErrorClass::kDiskFull
                                                                        : ErrorClass::kOutOfMemory;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return ErrorClass::kInputUnavailable;
    case absl::StatusCode::kCancelled:
      return ErrorClass::kCancelled;
    default:
      return ErrorClass::kInternal;
  }
}

bool IsOutOfMemory(const absl::Status& status) {
  return !status.ok() && ErrorClassOf(status) == ErrorClass::kOutOfMemory;
}

nlohmann::json FailureToJson(const absl::Status& status) {
  const ClassRow& row = RowOf(ErrorClassOf(status));
  std::string remedy(row.remedy);
  if (absl::optional<absl::Cord> payload = status.GetPayload(kRemedyPayload)) {
    remedy = std::string(*payload);
  }
  return {{"errorClass", std::string(row.name)},
          {"code", static_cast<int>(status.code())},
          {"message", std::string(status.message())},
          {"remedy", std::move(remedy)}};
}

}  // namespace quantd::engine
