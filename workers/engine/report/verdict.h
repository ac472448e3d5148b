// The rules by which a variant is judged, as named thresholds, and the words for the judgement.
#pragma once

#include <string>
#include <vector>

#include "workers/engine/report/comparison.h"

namespace quantd::engine {

// A metric that decides a verdict. `suffix` is the metric's name or what follows its last '/'.
struct JudgedMetric {
  const char* suffix;
  // The largest relative degradation that is still "good". Perplexity: what 4-bit group-wise
  // rounding with error compensation costs on common models is 1 to 3 %. Accuracies: 2 % is about
  // the noise of a thousand questions.
  double good_max;
};
constexpr JudgedMetric kJudgedMetrics[] = {
    {"perplexity", 0.03},   {"word_perplexity", 0.03},  {"acc", 0.02},   {"exact_match", 0.02},
    {"strict_match", 0.02}, {"flexible_extract", 0.02}, {"exact", 0.02}, {"em", 0.02},
    {"f1", 0.02},
};

// Twice the baseline's perplexity: text of this model is of no use any more (round-to-nearest at
// 2 bits reaches 3 to 10 times).
constexpr double kBrokenPerplexity = 1.0;
// Standard errors by which a limit must be passed before the change counts as real (95 %).
constexpr double kSignificance = 2.0;
// Sizes closer than this are equal, and the better quality wins.
constexpr double kSameSize = 0.02;

// The rule for `metric`, or null where it informs only.
const JudgedMetric* FindJudged(const std::string& metric);

// Fills changes of `facts` against `baseline` (paired by sample where both have samples).
void MeasureChanges(const VariantFacts& baseline, VariantFacts* facts);

// Fills verdict and reason: "baseline", "good", "degraded", "broken", "failed" or "unjudged";
// "recommended" is given by Recommend.
void Judge(VariantFacts* facts);

struct Recommendation {
  std::string variant;  // The baseline's name when no variant is good.
  std::string reason;
};
// Among variants of one model, all judged: the smallest good one, near-equal sizes by quality. Its
// verdict becomes "recommended".
Recommendation Recommend(const std::vector<VariantFacts*>& variants);

// How many times as fast as the baseline a variant writes: measured in turns where the benchmark
// did so, else from two measurements; NaN where one is missing.
double RelativeSpeed(const VariantFacts& facts, const VariantFacts& baseline);

// "+2.1 %".
std::string Percent(double fraction);

}  // namespace quantd::engine
