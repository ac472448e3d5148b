// The formula of dequantize_rows.h as it stands.
#include "kernels/dequantize_rows.h"
#include "kernels/half.h"

namespace quantd::kernels {

void DequantizeRowsReference(const DequantizeRows& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    for (int64_t column = 0; column < args.columns; ++column) {
      const int64_t param = row * args.params_stride + args.group_index[column];
      const int steps = args.codes[row * args.codes_stride + column] - args.zeros[param];
      args.weight[row * args.weight_stride + column] =
          HalfToFloat(args.scales[param]) * static_cast<float>(steps);
    }
  }
}

}  // namespace quantd::kernels
