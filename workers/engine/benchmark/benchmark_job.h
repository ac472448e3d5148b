// The benchmark job: how fast a model reads a prompt and writes an answer here, how long the first
// token takes, and what memory it needs.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"

namespace quantd::engine {

// The keys of the first row (the first batch size and prompt length) at the top level, and all
// rows:
// {"prefillTokensPerSecond", "decodeTokensPerSecond", "timeToFirstTokenMs", "latencyMs": {p50,
// p95}, "loadSeconds", "sizeBytes" (on disk), "weightsInMemoryBytes", "modelDigest", "device",
// "dtype", "threads", "peakHostBytes", "peakDeviceBytes", "warmup", "repetitions", "rows":
// [{"batch", "promptTokens", "decodeTokens", "prefillTokensPerSecond", "decodeTokensPerSecond",
// "timeToFirstTokenMs", "latencyMs", "sampleLatencyMs", "spread", "joulesPerToken"?, "clocks"?}]}.
// Rates are medians over repetitions; "spread" has min, median and max. latencyMs is the time of
// one decoding step, sampleLatencyMs that of a whole answer; energy and clocks are there where NVML
// gives them. Prompts longer than the model's maximum are refused.
absl::StatusOr<nlohmann::json> RunBenchmark(JobContext& context, const BenchmarkSpec& spec);

}  // namespace quantd::engine
