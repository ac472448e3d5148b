// A job's life as OpenTelemetry spans, in the JSON form of OTLP that every collector takes
// (POST /v1/traces): the job, its waits and attempts, and the phases of each attempt.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "client/render/explanation.h"

namespace quantd {

// One line. Ids are those of base/trace.h: the same job gives the same spans.
std::string OtlpTrace(const ExplainedJob& explained, absl::Time now);

}  // namespace quantd
