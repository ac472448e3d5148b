// find_params.h's rule for one warp and one group: lanes share the range's columns, then each lane
// tries steps of its own and sums over the columns in their order, so that sums are the reference's
// bits.
#pragma once

#include "kernels/find_params.h"
#include "kernels/round.h"

namespace quantd::kernels {

constexpr unsigned kWholeWarp = 0xffffffffu;

struct WarpSearch {
  int bits;
  bool symmetric;
  int steps;
  const float* column_weights;  // Null: all 1.
};

__device__ inline float GroupError(const float* weight, int64_t count, const float* column_weights,
                                   GroupParams params, float code_max) {
  const float scale = HalfToFloat(params.scale);
  const float low = -static_cast<float>(params.zero);
  const float high = code_max - static_cast<float>(params.zero);
  float sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    float steps = weight[k] / scale;
    steps = steps < low ? low : steps;
    steps = steps > high ? high : steps;
    const float difference = weight[k] - scale * RoundHalfEven(steps);
    const float square = difference * difference;
    sum += column_weights == nullptr ? square : square * column_weights[k];
  }
  return sum;
}

// The same result in all lanes. `weight` in shared or global memory, written before by this warp or
// an earlier kernel.
__device__ inline GroupParams FindWarpParams(const float* weight, int64_t count,
                                             const WarpSearch& search) {
  const int lane = threadIdx.x % 32;
  float low = 0, high = 0;
  for (int64_t k = lane; k < count; k += 32) {
    low = weight[k] < low ? weight[k] : low;
    high = weight[k] > high ? weight[k] : high;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other_low = __shfl_xor_sync(kWholeWarp, low, offset);
    const float other_high = __shfl_xor_sync(kWholeWarp, high, offset);
    low = other_low < low ? other_low : low;
    high = other_high > high ? other_high : high;
  }
  if (search.steps == 0) return ParamsOfRange(low, high, search.bits, search.symmetric);
  const float code_max = static_cast<float>((1 << search.bits) - 1);
  // The first of equal errors wins, so lanes remember their step.
  float best = 0;
  int best_step = kSearchStepsMax;
  for (int step = lane; step < search.steps; step += 32) {
    const float factor = SearchFactor(step);
    const GroupParams candidate =
        ParamsOfRange(low * factor, high * factor, search.bits, search.symmetric);
    const float error = GroupError(weight, count, search.column_weights, candidate, code_max);
    if (step == lane || error < best) {
      best = error;
      best_step = step;
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, best, offset);
    const int other_step = __shfl_xor_sync(kWholeWarp, best_step, offset);
    const bool unused = best_step == kSearchStepsMax;
    const bool other_wins = other < best || (other == best && other_step < best_step);
    if (other_step != kSearchStepsMax && (unused || other_wins)) {
      best = other;
      best_step = other_step;
    }
  }
  const float factor = SearchFactor(best_step);
  return ParamsOfRange(low * factor, high * factor, search.bits, search.symmetric);
}

}  // namespace quantd::kernels
