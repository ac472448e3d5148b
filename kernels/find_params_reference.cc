// The rule of find_params.h, one group at a time.
#include <algorithm>
#include <cmath>

#include "kernels/find_params.h"
#include "kernels/half.h"

namespace quantd::kernels {
namespace {

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

}  // namespace

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
