// One group of hqq_groups.h: what its variants share, so that they cannot differ.
#pragma once

#include <cstdint>

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

HqqParams HqqParamsOfRange(float low, float high, int bits, bool round_zero);

// Adds up the interleaved parts; overwrites them.
float HqqFold(float (&parts)[kHqqLanes]);

// One step of the group whose i-th weight is weight[i * stride].
HqqStep HqqGroupStep(const float* weight, int64_t count, int64_t stride, HqqParams params,
                     const HqqGroups& args);

// No |d| below it is shrunk to anything but zero.
float HqqShrinkBelow(float norm, float beta);

// The iteration: `step` makes one for all groups (sums of errors out) with the zeros as they are.
template <typename Step>
int HqqIterate(const HqqGroups& args, int64_t groups, const float* errors, const Step& step) {
  double best = 0;
  for (int i = 0; i < args.iterations; ++i) {
    step();
    double error = 0;
    for (int64_t group = 0; group < groups; ++group) error += errors[group];
    if (i > 0 && !(error < best)) return i + 1;
    best = error;
  }
  return args.iterations;
}

}  // namespace quantd::kernels
