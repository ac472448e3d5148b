// The rule of find_params.h, one group at a time.
#include <algorithm>
#include <cmath>

#include "kernels/find_params.h"
#include "kernels/half.h"

namespace quantd::kernels {
namespace {

constexpr uint16_t kHalfSmallest = 0x0001;  // 2^-24: a scale of zero would divide by zero.
constexpr uint16_t kHalfLargest = 0x7bff;   // 65504.

// Squared error of a group's weights rounded with `params`.
float GroupError(const float* weight, const float* column_weights, int64_t count,
                 GroupParams params, int bits) {
  const float scale = HalfToFloat(params.scale);
  const float zero = params.zero;
  const float code_max = static_cast<float>((1 << bits) - 1);
  float error = 0;
  for (int64_t k = 0; k < count; ++k) {
    const float code = std::clamp(std::nearbyint(weight[k] / scale) + zero, 0.0f, code_max);
    const float difference = weight[k] - scale * (code - zero);
    const float square = difference * difference;
    error += column_weights == nullptr ? square : square * column_weights[k];
  }
  return error;
}

uint16_t StoredScale(float scale) {
  return std::clamp(FloatToHalf(scale), kHalfSmallest, kHalfLargest);
}

}  // namespace

GroupParams ParamsOfRange(float low, float high, int bits, bool symmetric) {
  const float code_max = static_cast<float>((1 << bits) - 1);
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  if (symmetric) {
    const float largest = std::max(-low, high);
    return {.scale = StoredScale(2 * largest / code_max),
            .zero = static_cast<uint8_t>(1 << (bits - 1))};
  }
  GroupParams params = {.scale = StoredScale((high - low) / code_max), .zero = 0};
  const float zero = std::nearbyint(-low / HalfToFloat(params.scale));
  if (zero < 1) {
    return {.scale = StoredScale(high / (code_max - 1)), .zero = 1};
  }
  params.zero = static_cast<uint8_t>(std::min(zero, code_max));
  return params;
}

void FindParamsReference(const FindParams& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* weight = args.weight + row * args.weight_stride;
    int64_t group = 0;
    for (int64_t begin = 0; begin < args.columns; begin += args.group_columns, ++group) {
      const int64_t end = std::min(begin + args.group_columns, args.columns);
      const auto [low, high] = std::minmax_element(weight + begin, weight + end);
      GroupParams params = ParamsOfRange(*low, *high, args.bits, args.symmetric);
      const float* column_weights =
          args.column_weights == nullptr ? nullptr : args.column_weights + begin;
      float best = 0;
      for (int step = 0; step < args.search_steps; ++step) {
        const GroupParams candidate = ParamsOfRange(
            *low * SearchFactor(step), *high * SearchFactor(step), args.bits, args.symmetric);
        const float error =
            GroupError(weight + begin, column_weights, end - begin, candidate, args.bits);
        if (step == 0 || error < best) {
          best = error;
          params = candidate;
        }
      }
      args.scales[row * args.params_stride + group] = params.scale;
      args.zeros[row * args.params_stride + group] = params.zero;
    }
  }
}

}  // namespace quantd::kernels
