// The verify job: loads what a quantize job wrote as a stranger would and checks that it is what
// was computed.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"

namespace quantd::engine {

struct JobContext;
struct VerifySpec;

// {"passed": true, "checks": [{"name", "passed", "detail"}, ...]}. A check that fails makes the job
// fail with class VERIFICATION_FAILED; the message names the checks.
absl::StatusOr<nlohmann::json> RunVerify(JobContext& context, const VerifySpec& spec);

}  // namespace quantd::engine
