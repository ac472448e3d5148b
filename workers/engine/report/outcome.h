// Two answers beside the verdict: whether a variant did all that was asked of it, and which one to
// take for what use.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "workers/engine/report/comparison.h"

namespace quantd::engine {

// A loss of more than this in a judged metric is looked into (15 %).
constexpr double kInvestigateLoss = 0.15;
// Quantizing that takes longer is looked into.
constexpr double kInvestigateSeconds = 3600;
// Slower than the baseline by more than what a measurement varies by itself.
constexpr double kSlower = 0.95;
// A quantized model that keeps more than this of the size has not shrunk.
constexpr double kShrunk = 0.95;

// "successful": it loads, writes coherent text, completes every task of the baseline, shrank and
// lost at most kInvestigateLoss. Else "investigate" and `reasons` says why. The baseline:
// "baseline".
struct Outcome {
  std::string word;
  std::vector<std::string> reasons;
};
Outcome JudgeOutcome(const VariantFacts& facts, const VariantFacts* baseline);

// [{"use", "variant" (null: none), "reason"}] among variants of one model, all judged.
nlohmann::json RecommendUses(const std::vector<VariantFacts*>& variants);

}  // namespace quantd::engine
