// The formula of rtn_rows.h as it stands.
#include <algorithm>
#include <cmath>

#include "kernels/half.h"
#include "kernels/rtn_rows.h"

namespace quantd::kernels {

void RtnRowsReference(const RtnRows& args) {
  const float code_max = static_cast<float>((1 << args.bits) - 1);
  for (int64_t row = 0; row < args.rows; ++row) {
    for (int64_t column = 0; column < args.columns; ++column) {
      const int64_t param = row * args.params_stride + column / args.group_columns;
      const float scale = HalfToFloat(args.scales[param]);
      const float zero = args.zeros[param];
      const float weight = args.weight[row * args.weight_stride + column];
      const float code = std::clamp(std::nearbyint(weight / scale) + zero, 0.0f, code_max);
      args.codes[row * args.codes_stride + column] = static_cast<uint8_t>(code);
    }
  }
}

}  // namespace quantd::kernels
