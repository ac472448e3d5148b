// See experts.h.
#include "workers/engine/quantize/experts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

constexpr double kTokensPartMin = 0.005;

int64_t HessianBytes(const PlannedLinear& linear) {
  return linear.shape.in * linear.shape.in * static_cast<int64_t>(sizeof(float));
}

// q, k, v; output; gate and up, of all experts alike; down, of all experts.
int StageOf(const LinearShape& shape) {
  return shape.group < 2 ? shape.group : 2 + shape.group % 2;
}

}  // namespace

std::vector<std::set<int>> StatisticsBatches(std::vector<const PlannedLinear*> linears,
                                             bool sequential) {
  if (sequential) {
    std::stable_sort(linears.begin(), linears.end(),
                     [](const PlannedLinear* a, const PlannedLinear* b) {
                       return StageOf(a->shape) < StageOf(b->shape);
                     });
  }
  std::vector<std::set<int>> batches;
  int64_t bytes = 0;
  int stage = -1;
  for (const PlannedLinear* linear : linears) {
    const int group = linear->shape.group;
    if (!batches.empty() && batches.back().contains(group)) continue;
    bytes += HessianBytes(*linear);
    const bool next_stage = sequential && StageOf(linear->shape) != stage;
    if (batches.empty() || next_stage || bytes > kHessianBytesMax) {
      batches.emplace_back();
      bytes = HessianBytes(*linear);
    }
    stage = StageOf(linear->shape);
    batches.back().insert(group);
  }
  return batches;
}

int64_t HeldHessianBytes(const std::vector<const PlannedLinear*>& linears, bool sequential) {
  int64_t largest = 0;
  for (const std::set<int>& batch : StatisticsBatches(linears, sequential)) {
    int64_t bytes = 0;
    std::set<int> counted;
    for (const PlannedLinear* linear : linears) {
      const int group = linear->shape.group;
      if (batch.contains(group) && counted.insert(group).second) bytes += HessianBytes(*linear);
    }
    largest = std::max(largest, bytes);
  }
  return largest;
}

bool SawTooFewTokens(const LinearShape& shape, const InputStatistics& statistics,
                     int64_t calibration_tokens) {
  const double least = kTokensPartMin * static_cast<double>(calibration_tokens);
  return shape.expert >= 0 && static_cast<double>(statistics.tokens) < std::max(1.0, least);
}

absl::StatusOr<LinearResult> RoundInstead(LinearJob job, int64_t calibration_tokens) {
  QD_ASSIGN_OR_RETURN(const Method* rtn, FindMethod("rtn"));
  QD_ASSIGN_OR_RETURN(const nlohmann::json options,
                      ResolveOptions(*rtn, OptionsKnownTo(*rtn, *job.options)));
  const int64_t tokens = job.statistics->tokens;
  const std::string name = job.name;
  job.options = &options;
  job.statistics = nullptr;
  QD_ASSIGN_OR_RETURN(LinearResult result, rtn->Quantize(std::move(job)));
  result.fallbacks.push_back(
      {"rtn", name,
       absl::StrCat("only ", tokens, " of ", calibration_tokens,
                    " calibration tokens were routed to this expert; rounded to nearest")});
  return result;
}

}  // namespace quantd::engine
