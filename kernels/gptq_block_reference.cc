// The algorithm of gptq_block.h, row by row.
#include <algorithm>
#include <cmath>

#include "kernels/find_params.h"
#include "kernels/gptq_block.h"
#include "kernels/half.h"

namespace quantd::kernels {

void GptqBlockReference(const GptqBlock& args) {
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  for (int64_t row = 0; row < args.rows; ++row) {
    float* weight = args.weight + row * args.weight_stride;
    for (int64_t i = 0; i < args.columns; ++i) {
      const int32_t group = args.group_of_column[i];
      const int64_t param = row * args.params_stride + group;
      if (args.find_columns > 0 && (i == 0 || args.group_of_column[i - 1] != group)) {
        FindParamsReference(
            {.weight = weight + i,
             .rows = 1,
             .columns = std::min(args.find_columns, args.columns - i),
             .group_columns = args.find_columns,
             .bits = args.bits,
             .symmetric = args.symmetric,
             .search_steps = args.search_steps,
             .column_weights = args.column_weights == nullptr ? nullptr : args.column_weights + i,
             .scales = args.scales + param,
             .zeros = args.zeros + param});
      }
      const float scale = HalfToFloat(args.scales[param]);
      const float zero = args.zeros[param];
      const float code = std::clamp(std::nearbyint(weight[i] / scale) + zero, 0.0f, code_max);
      const float error =
          (weight[i] - scale * (code - zero)) / args.inverse[i * args.inverse_stride + i];
      for (int64_t j = i + 1; j < args.columns; ++j) {
        weight[j] -= error * args.inverse[i * args.inverse_stride + j];
      }
      args.codes[row * args.codes_stride + i] = static_cast<uint8_t>(code);
      args.errors[row * args.errors_stride + i] = error;
      args.losses[row] += static_cast<double>(error) * static_cast<double>(error) / 2;
    }
  }
}

}  // namespace quantd::kernels
