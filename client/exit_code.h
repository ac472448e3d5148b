// What quantctl's exit status says. Scripts rely on it: docs/cli.md and `quantctl --help` list the
// same numbers.
#pragma once

#include "absl/status/status.h"

namespace quantd {

enum ExitCode : int {
  kExitOk = 0,
  kExitJobFailed = 1,  // The job or sweep did not succeed; also errors of our own.
  kExitUsage = 2,      // The command line, a file or the spec is wrong.
  kExitNotFound = 3,
  kExitAuth = 4,
  kExitUnavailable = 5,  // The scheduler cannot be reached, or has no room now.
  kExitTimeout = 124,    // --timeout ran out; the job goes on.
  kExitDetached = 130,   // Ctrl-C; the job goes on.
};

inline int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kOutOfRange:
      return kExitUsage;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return kExitAuth;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnavailable;
    case absl::StatusCode::kCancelled:
      return kExitDetached;
    default:
      return kExitJobFailed;
  }
}

}  // namespace quantd
