// The evaluate job: one model, any number of tasks, each with its samples in a file of its own.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"

namespace quantd::engine {

// {"metrics": {name: {value, protocol, samples, stderr, seconds, ...}}, "modelDigest",
// "tokenizerDigest", "sizeBytes", "loadSeconds", "device", "dtype", "threads", "peakHostBytes",
// "peakDeviceBytes"}. Unknown tasks and options and missing data are refused before the model is
// loaded. Writes samples_KEY.jsonl for every task.
absl::StatusOr<nlohmann::json> RunEvaluate(JobContext& context, const EvaluateSpec& spec);

}  // namespace quantd::engine
