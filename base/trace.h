// The ids under which tracing systems (W3C Trace Context, OpenTelemetry) know a job and its parts.
// They are digests of names, so that every program knows them without being told: one trace a job,
// a span for each attempt and for each phase of it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// 32 hexadecimal digits for "tenants/{t}/jobs/{j}".
std::string TraceId(absl::string_view job);
// 16 hexadecimal digits. `part`: empty for the job as a whole, "attempt 2", "attempt 2/quantize".
std::string SpanId(absl::string_view job, absl::string_view part);
// The span of an attempt.
std::string AttemptPart(int64_t attempt);
// The value of the environment variable TRACEPARENT for what works on an attempt.
std::string TraceParent(absl::string_view job, int64_t attempt);

}  // namespace quantd
