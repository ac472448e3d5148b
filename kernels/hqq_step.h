// One group of hqq_groups.h: what its variants share, so that they cannot differ.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/hqq_groups.h"

namespace quantd::kernels {

struct HqqParams {
  float inverse = 1;  // s
  float zero = 0;
};

struct HqqStep {
  float zero = 0;
  float error = 0;  // Sum of |w - r|.
};

QD_HOST_DEVICE inline HqqParams HqqParamsOfRange(float low, float high, int bits, bool round_zero) {
  const float range = high - low;
  HqqParams params;
  params.inverse = static_cast<float>((1 << bits) - 1) * (1 / range);
  if (range <= 1e-4f) params.inverse = 1;
  if (params.inverse > 2e4f) params.inverse = 2e4f;
  params.zero = -low * params.inverse;
  if (round_zero) params.zero = nearbyintf(params.zero);
  return params;
}

// sign(d) * max(|d| - |d|^(norm - 1) / beta, 0).
QD_HOST_DEVICE inline float HqqShrink(float difference, float norm, float beta) {
  const float size = difference < 0 ? -difference : difference;
  const float power = static_cast<float>(pow(static_cast<double>(size), norm - 1.0));
  const float left = size - 1 / beta * power;
  const float shrunk = left > 0 ? left : 0;
  return difference < 0 ? -shrunk : shrunk;
}

// Adds up the interleaved parts; overwrites them.
float HqqFold(float (&parts)[kHqqLanes]);

// One step of the group whose i-th weight is weight[i * stride].
HqqStep HqqGroupStep(const float* weight, int64_t count, int64_t stride, HqqParams params,
                     const HqqGroups& args);

// No |d| below it is shrunk to anything but zero: |d| = |d|^(norm - 1) / beta solved for |d|, less
// a hundredth for the rounding of the power.
inline float HqqShrinkBelow(float norm, float beta) {
  return 0.99f * std::pow(1 / beta, 1 / (2 - norm));
}

// The sum of all groups' errors.
double HqqSumOfErrors(const float* errors, int64_t groups);

// The iteration: `step` makes one for all groups (sums of errors out) with the zeros as they are.
template <typename Step>
int HqqIterate(const HqqGroups& args, int64_t groups, const float* errors, const Step& step) {
  double best = 0;
  for (int i = 0; i < args.iterations; ++i) {
    step();
    const double error = HqqSumOfErrors(errors, groups);
    if (i > 0 && !(error < best)) return i + 1;
    best = error;
  }
  return args.iterations;
}

}  // namespace quantd::kernels
