// One measured run of a model and what a number of runs say: the arithmetic of the benchmark, apart
// from the order in which it measures.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/evaluation/loaded_model.h"
#include "workers/engine/job/context.h"

namespace quantd::engine {

// `batch` prompts of `prompt` random tokens each, `decode` new tokens to each.
struct BenchmarkSetting {
  int batch = 1;
  int prompt = 128;
  int decode = 32;
  uint64_t seed = 0;
};

struct Timing {
  double prefill_seconds = 0;        // Until the first new token is known.
  std::vector<double> step_seconds;  // Of each further token.
  double DecodeSeconds() const;
  double TotalSeconds() const { return prefill_seconds + DecodeSeconds(); }
};

// One prefill and `decode` - 1 greedy steps; the device is waited for before every look at the
// clock. The same seed gives the same prompts (modulo the vocabulary).
absl::StatusOr<Timing> TimeOnce(const JobContext& context, const LoadedModel& model,
                                const BenchmarkSetting& setting);

// {"batch", "promptTokens", "decodeTokens", "prefillTokensPerSecond", "timeToFirstTokenMs",
// "sampleLatencyMs", "spread"} and, where there was a step, {"decodeTokensPerSecond", "latencyMs"}.
// Rates are medians over `timings`, which must not be empty.
nlohmann::json SettingRow(const BenchmarkSetting& setting, const std::vector<Timing>& timings);

// How many times as fast as the baseline, from runs that were measured in turns (of equal number):
// {"prefill", "decode"?, "sample": {"median", "min", "max"} of the pairs' ratios}.
nlohmann::json SpeedRatios(const std::vector<Timing>& model, const std::vector<Timing>& baseline);

}  // namespace quantd::engine
