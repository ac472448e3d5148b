// The formula of gemm_w8a8.h as it stands.
#include "kernels/gemm_w8a8.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {

const char* GemmW8A8Reference(const GemmW8A8& args) {
  for (int64_t m = 0; m < args.m; ++m) {
    for (int64_t row = 0; row < args.rows; ++row) {
      int32_t sum = 0;
      for (int64_t k = 0; k < args.columns; ++k) {
        sum += args.input[m * args.columns + k] * args.weight[row * args.columns + k];
      }
      float value = static_cast<float>(sum) * (args.input_scales[m] * args.weight_scales[row]);
      if (args.bias != nullptr) value += FromSixteen(args.bias[row], args.bfloat16);
      const int64_t at = m * args.rows + row;
      if (args.residual != nullptr) {
        value = FromSixteen(ToSixteen(value, args.bfloat16), args.bfloat16) +
                FromSixteen(args.residual[at], args.bfloat16);
      }
      args.output[at] = ToSixteen(value, args.bfloat16);
    }
  }
  return nullptr;
}

}  // namespace quantd::kernels
