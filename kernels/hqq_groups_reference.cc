// The formulas of hqq_groups.h, one group at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/hqq_groups.h"
#include "kernels/hqq_step.h"

namespace quantd::kernels {

HqqParams HqqParamsOfRange(float low, float high, int bits, bool round_zero) {
  const float range = high - low;
  HqqParams params;
  params.inverse = static_cast<float>((1 << bits) - 1) * (1 / range);
  if (range <= 1e-4f) params.inverse = 1;
  params.inverse = std::min(params.inverse, 2e4f);
  params.zero = -low * params.inverse;
  if (round_zero) params.zero = std::nearbyint(params.zero);
  return params;
}

float HqqFold(float (&parts)[kHqqLanes]) {
  for (int width = kHqqLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
  }
  return parts[0];
}

float HqqShrinkBelow(float norm, float beta) {
  // |d| = |d|^(norm - 1) / beta solved for |d|, less a hundredth for the rounding of pow.
  return 0.99f * std::pow(1 / beta, 1 / (2 - norm));
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
    const float size = std::abs(difference);
    const float shrunk = std::max(size - 1 / args.beta * std::pow(size, args.norm - 1), 0.0f);
    const float outlier = difference < 0 ? -shrunk : shrunk;
    sums[i % kHqqLanes] += code - (w - outlier) * params.inverse;
    errors[i % kHqqLanes] += size;
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
