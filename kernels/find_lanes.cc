// Each lane goes through the columns in the order in which the reference does, so that sums are the
// same bits.
#include "kernels/find_lanes.h"

#include <algorithm>

#include "kernels/half.h"
#include "kernels/round.h"

namespace quantd::kernels {
namespace {

struct LaneParams {
  float scale[kLanes];
  float zero[kLanes];
};

QD_MULTIVERSION void RangeOfLanes(const float* tile, int64_t columns, float* low, float* high) {
  float lowest[kLanes] = {};
  float highest[kLanes] = {};
  for (int64_t column = 0; column < columns; ++column) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = tile[column * kLanes + lane];
      lowest[lane] = value < lowest[lane] ? value : lowest[lane];
      highest[lane] = value > highest[lane] ? value : highest[lane];
    }
  }
  std::copy(lowest, lowest + kLanes, low);
  std::copy(highest, highest + kLanes, high);
}

QD_MULTIVERSION void ErrorOfLanes(const float* tile, int64_t columns, const float* column_weights,
                                  const LaneParams& params, float code_max, float* error) {
  float sum[kLanes] = {};
  for (int64_t column = 0; column < columns; ++column) {
    const float column_weight = column_weights == nullptr ? 1.0f : column_weights[column];
    for (int lane = 0; lane < kLanes; ++lane) {
      const float weight = tile[column * kLanes + lane];
      const float low = -params.zero[lane];
      const float high = code_max - params.zero[lane];
      float steps = weight / params.scale[lane];
      steps = steps < low ? low : steps;
      steps = steps > high ? high : steps;
      const float difference = weight - params.scale[lane] * RoundHalfEven(steps);
      sum[lane] += difference * difference * column_weight;
    }
  }
  std::copy(sum, sum + kLanes, error);
}

}  // namespace

void FindLaneParams(const float* tile, int64_t columns, const LaneSearch& search,
                    GroupParams* params) {
  float low[kLanes];
  float high[kLanes];
  RangeOfLanes(tile, columns, low, high);
  for (int lane = 0; lane < kLanes; ++lane) {
    params[lane] = ParamsOfRange(low[lane], high[lane], search.bits, search.symmetric);
  }
  const float code_max = static_cast<float>((1 << search.bits) - 1);
  float best[kLanes];
  for (int step = 0; step < search.search_steps; ++step) {
    GroupParams candidates[kLanes];
    LaneParams lanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      const float factor = SearchFactor(step);
      candidates[lane] =
          ParamsOfRange(low[lane] * factor, high[lane] * factor, search.bits, search.symmetric);
      lanes.scale[lane] = HalfToFloat(candidates[lane].scale);
      lanes.zero[lane] = candidates[lane].zero;
    }
    float error[kLanes];
    ErrorOfLanes(tile, columns, search.column_weights, lanes, code_max, error);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (step != 0 && !(error[lane] < best[lane])) continue;
      best[lane] = error[lane];
      params[lane] = candidates[lane];
    }
  }
}

}  // namespace quantd::kernels
