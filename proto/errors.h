// One form of error on both sides of the wire. Inside a process an error is an absl::Status whose
// payloads are google.rpc details (type URL "type.googleapis.com/" + full name, bytes the
// serialized message); between processes it is a grpc::Status with the same details in the trailer
// grpc-status-details-bin. gRPC 1.51 drops the whole status when the trailer passes 8 KB, so
// details are cut to kErrorDetailsBytesMax and the code is never lost. Thread-safe; nothing here
// throws.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/status.h"

namespace quantd {

// ErrorInfo.domain of all our errors.
inline constexpr char kErrorDomain[] = "quantd";

// Reasons (ErrorInfo.reason) that callers act upon.
inline constexpr char kReasonLeaseLost[] = "LEASE_LOST";  // ABORTED: stop working for the lease
inline constexpr char kReasonInstanceReplaced[] =
    "INSTANCE_REPLACED";  // ABORTED: exit, another has the name
inline constexpr char kReasonWorkerUnknown[] = "WORKER_UNKNOWN";  // NOT_FOUND: register again
inline constexpr char kReasonEventGap[] = "EVENT_GAP";  // OUT_OF_RANGE; metadata "accepted_events"
inline constexpr char kReasonRequestIdReused[] = "REQUEST_ID_REUSED";  // ALREADY_EXISTS
inline constexpr char kReasonDraining[] = "DRAINING";  // UNAVAILABLE + RetryInfo: try again later
inline constexpr char kReasonDiskLow[] = "DISK_LOW";   // UNAVAILABLE + RetryInfo
inline constexpr char kReasonUploadGap[] =
    "UPLOAD_GAP";  // OUT_OF_RANGE; metadata "committed_bytes"
inline constexpr char kReasonBlobMissing[] =
    "BLOB_MISSING";  // FAILED_PRECONDITION; upload it first
inline constexpr char kReasonSlowConsumer[] =
    "SLOW_CONSUMER";  // RESOURCE_EXHAUSTED; metadata "after_sequence" or "resume_token"

// Serialized google.rpc.Status: half of what gRPC 1.51 carries, so that proxies' trailers fit too.
inline constexpr size_t kErrorDetailsBytesMax = 4096;
// The grpc-message header; percent-encoding may triple it.
inline constexpr size_t kErrorMessageBytesMax = 1024;

struct FieldViolation {
  std::string field;  // Path in the request, as "spec.quantize.options.bits".
  std::string description;
};

// `status` with this detail, in place of an earlier one of the same type. An OK status stays bare.
absl::Status WithDetail(absl::Status status, const google::protobuf::Message& detail);

// `status` with an ErrorInfo.
absl::Status WithReason(
    absl::Status status, absl::string_view reason,
    std::initializer_list<std::pair<absl::string_view, std::string>> metadata = {});
// The ErrorInfo's reason; empty when there is none.
std::string ReasonOf(const absl::Status& status);
// A value of the ErrorInfo's metadata; empty when there is none.
std::string ReasonMetadata(const absl::Status& status, absl::string_view key);

// InvalidArgument "field: description" with a BadRequest field violation.
absl::Status FieldError(absl::string_view field, absl::string_view description);
// InvalidArgument with all of them; the message lists the first ones. OK when there are none.
absl::Status FieldErrors(const std::vector<FieldViolation>& violations);
std::vector<FieldViolation> FieldViolationsOf(const absl::Status& status);

// RetryInfo: do not try again sooner.
absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);
std::optional<absl::Duration> RetryAfterOf(const absl::Status& status);

// PreconditionFailure with one more violation, as {"MISSING", "blobs/abc", "..."}.
struct Precondition {
  std::string type;
  std::string subject;
  std::string description;
};
absl::Status WithPrecondition(absl::Status status, const Precondition& violation);
// ResourceInfo.
absl::Status WithResource(absl::Status status, absl::string_view type, absl::string_view name);
// Help with one link.
absl::Status WithHelp(absl::Status status, absl::string_view description, absl::string_view url);

grpc::Status ToGrpcStatus(const absl::Status& status);
// A code outside absl's range becomes Unknown. Unreadable details are left out.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace quantd
