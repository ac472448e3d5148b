// The one way in which a job is run, whoever asks: the agent, a local command or a test.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"

namespace quantd::engine {

// Runs context.spec and announces its outcome: the last event is result or failure. Returns the
// result's values, with "engineVersion" and "seconds" added.
absl::StatusOr<nlohmann::json> RunJob(JobContext& context);

// The exit code for an outcome: 0 done, 1 failed, 3 cancelled. (2 is for a command line that cannot
// be understood.)
int ExitCode(const absl::Status& status);
constexpr int kExitUsage = 2;

}  // namespace quantd::engine
