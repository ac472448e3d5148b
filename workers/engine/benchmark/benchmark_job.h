// The benchmark job: how fast a model reads a prompt and writes an answer here, how long the first
// token takes, what memory it needs, and how that compares with a baseline that is measured in
// turns with it.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"

namespace quantd::engine {

// The keys of the first measured row (the first batch size and prompt length) at the top level, and
// all rows:
// {"prefillTokensPerSecond", "decodeTokensPerSecond", "timeToFirstTokenMs", "latencyMs": {p50,
// p95}, "ratio"?, "loadSeconds", "sizeBytes" (on disk), "weightsInMemoryBytes", "modelDigest",
// "device", "dtype", "threads", "peakHostBytes", "peakDeviceBytes" (of this model alone, before the
// baseline is loaded), "warmup", "repetitions", "rows": [{"batch", "promptTokens", "decodeTokens",
// "prefillTokensPerSecond", "decodeTokensPerSecond", "timeToFirstTokenMs", "latencyMs",
// "sampleLatencyMs", "spread", "clocks"?, "joulesPerToken"?, "ratio"?}, or {"batch",
// "promptTokens", "skipped": why}], "baseline"?: {"model", "modelDigest", "weightsInMemoryBytes",
// "rows"}}.
// Rates are medians over repetitions; "spread" has min, median and max. latencyMs is the time of
// one decoding step, sampleLatencyMs that of a whole answer. With spec.baseline every repetition
// runs both models, in alternating order, and "ratio" holds how many times as fast this one is; a
// baseline that does not fit beside it is left out with a Fallback. Settings that the model's
// positions or the memory do not hold are skipped; when none is left, that is an error.
absl::StatusOr<nlohmann::json> RunBenchmark(JobContext& context, const BenchmarkSpec& spec);

}  // namespace quantd::engine
