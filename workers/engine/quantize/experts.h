// What mixtures of experts ask of a quantize job: an expert's statistics come from the tokens
// routed to it, which may be few or none, and all experts' statistics at once may be too many to
// hold.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/quantize/plan.h"

namespace quantd::engine {

// Hessians that are held at once, unless a single one is larger. A constant, because what is
// quantized together decides what the next statistics see, and a resumed job must see the same.
constexpr int64_t kHessianBytesMax = int64_t{1} << 30;

// The linears' groups in the order of computation, cut into runs whose Hessians fit. `sequential`
// also cuts where a layer's input depends on the layers before it; experts stand side by side, so
// that a block has four such stages however many experts it has.
std::vector<std::set<int>> StatisticsBatches(std::vector<const PlannedLinear*> linears,
                                             bool sequential);
// Bytes of the largest run's Hessians.
int64_t HeldHessianBytes(const std::vector<const PlannedLinear*>& linears, bool sequential);

// Whether an expert saw under half a percent of the calibration tokens: too few to tell columns
// apart (the rule of GPTQModel).
bool SawTooFewTokens(const LinearShape& shape, const InputStatistics& statistics,
                     int64_t calibration_tokens);
// Such a layer rounded to nearest with what of its options rtn knows, and the record of it.
absl::StatusOr<LinearResult> RoundInstead(LinearJob job, int64_t calibration_tokens);

}  // namespace quantd::engine
