// The formula of int8_rows.h as it stands.
#include <algorithm>
#include <cmath>

#include "kernels/int8_rows.h"

namespace quantd::kernels {

void Int8RowsReference(const Int8Rows& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* weight = args.weight + row * args.weight_stride;
    float largest = 0;
    for (int64_t k = 0; k < args.columns; ++k) largest = std::max(largest, std::abs(weight[k]));
    args.absmax[row] = largest;
    for (int64_t k = 0; k < args.columns; ++k) {
      const float code =
          largest == 0 ? 0.0f : std::nearbyint(weight[k] * (127.0f * (1.0f / largest)));
      args.codes[row * args.codes_stride + k] = static_cast<uint8_t>(128 + code);
    }
  }
}

}  // namespace quantd::kernels
