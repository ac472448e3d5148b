// Why a job failed, in the classes of job.proto, and what the user can do about it. A status
// carries its class as a payload where the code alone does not tell it.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

// Names and meaning as in job.proto's ErrorClass; only those that an engine can find.
enum class ErrorClass {
  kInvalidSpec,
  kBadInput,
  kInputUnavailable,
  kOutOfMemory,
  kDiskFull,
  kDeviceFault,
  kVerificationFailed,
  kCancelled,
  kInternal,
};

// "ERROR_CLASS_OUT_OF_MEMORY".
absl::string_view ErrorClassName(ErrorClass error_class);

// `status` with its class (and, where the usual words do not fit, a remedy) attached. An OK status
// stays OK.
absl::Status WithErrorClass(absl::Status status, ErrorClass error_class);
absl::Status WithRemedy(absl::Status status, absl::string_view remedy);

// The attached class, or the one that the code stands for: InvalidArgument and OutOfRange are
// INVALID_SPEC; NotFound, DataLoss, FailedPrecondition, Unimplemented and PermissionDenied are
// BAD_INPUT; ResourceExhausted is OUT_OF_MEMORY, or DISK_FULL when the words are errno ENOSPC's;
// Unavailable is INPUT_UNAVAILABLE; Cancelled is CANCELLED; the rest is INTERNAL.
ErrorClass ErrorClassOf(const absl::Status& status);

// Whether memory ran out, so that a smaller batch or another device may help.
bool IsOutOfMemory(const absl::Status& status);

// The Failure message of job.proto in proto3-JSON form, with a remedy.
nlohmann::json FailureToJson(const absl::Status& status);

}  // namespace quantd::engine
