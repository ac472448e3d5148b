// Errors with the details that gRPC's rich errors carry. A detail travels as an absl::Status
// payload whose type URL is "type.googleapis.com/" + the message's full name and whose bytes are
// the serialized message, so that the services copy payloads into google.rpc.Status.details without
// knowing them.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

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

// `status` with an ErrorInfo.
absl::Status WithReason(
    absl::Status status, absl::string_view reason,
    std::initializer_list<std::pair<absl::string_view, std::string>> metadata = {});
// The ErrorInfo's reason; empty when there is none.
std::string ReasonOf(const absl::Status& status);

// InvalidArgument "field: description" with a BadRequest field violation. `field` is a path in the
// request, as in "spec.quantize.model".
absl::Status FieldError(absl::string_view field, absl::string_view description);

}  // namespace quantd
