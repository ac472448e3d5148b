// The formulas of hqq_groups.h, one group at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/hqq_groups.h"
#include "kernels/hqq_step.h"

namespace quantd::kernels {

float HqqFold(float (&parts)[kHqqLanes]) {
  for (int width = kHqqLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
  }
  return parts[0];
}

double HqqSumOfErrors(const float* errors, int64_t groups) {
  std::vector<double> parts(kHqqErrorParts);
  for (int64_t group = 0; group < groups; ++group) parts[group % kHqqErrorParts] += errors[group];
  for (int width = kHqqErrorParts / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
  }
  return parts[0];
}

HqqStep HqqGroupStep(const float* weight, int64_t count, int64_t stride, HqqParams params,
                     const HqqGroups& args) {
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  float sums[kHqqLanes] = {};
  float errors[kHqqLanes] = {};
  for (int64_t i = 0; i < count; ++i) {
    const float w = weight[i * stride];
    const float code = std::clamp(std::nearbyint(w * params.inverse + params.zero), 0.0f, code_max);
    const float difference = w - (code - params.zero) / params.inverse;
    const float outlier = HqqShrink(difference, args.norm, args.beta);
    sums[i % kHqqLanes] += code - (w - outlier) * params.inverse;
    errors[i % kHqqLanes] += std::abs(difference);
  }
  return {.zero = HqqFold(sums) / static_cast<float>(count), .error = HqqFold(errors)};
}

int HqqGroupsReference(const HqqGroups& args) {
  const bool by_row = args.axis == 1;
  const int64_t groups = by_row ? args.rows : args.columns;
  const int64_t count = by_row ? args.columns : args.rows;
  const int64_t stride = by_row ? 1 : args.columns;
  const auto first = [&](int64_t group) { return group * (by_row ? args.columns : 1); };
  std::vector<float> inverses(groups);
  std::vector<float> errors(groups);
  for (int64_t group = 0; group < groups; ++group) {
    float low = args.weight[first(group)];
    float high = low;
    for (int64_t i = 1; i < count; ++i) {
      low = std::min(low, args.weight[first(group) + i * stride]);
      high = std::max(high, args.weight[first(group) + i * stride]);
    }
    const HqqParams params = HqqParamsOfRange(low, high, args.bits, args.round_zero);
    inverses[group] = params.inverse;
    args.zeros[group] = params.zero;
  }
  const int done = HqqIterate(args, groups, errors.data(), [&] {
    for (int64_t group = 0; group < groups; ++group) {
      const HqqStep step = HqqGroupStep(args.weight + first(group), count, stride,
                                        {inverses[group], args.zeros[group]}, args);
      args.zeros[group] = step.zero;
      errors[group] = step.error;
    }
  });
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = first(group) + i * stride;
      const float steps = args.weight[place] * inverses[group] + args.zeros[group];
      args.codes[place] = static_cast<uint8_t>(std::clamp(std::nearbyint(steps), 0.0f, code_max));
    }
    args.scales[group] = 1 / inverses[group];
  }
  return done;
}

}  // namespace quantd::kernels
