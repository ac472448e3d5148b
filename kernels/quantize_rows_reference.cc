// The formula of quantize_rows.h as it stands.
#include <algorithm>
#include <cmath>

#include "kernels/int8_code.h"
#include "kernels/quantize_rows.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {

void QuantizeRowsReference(const QuantizeRows& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const uint16_t* input = args.input + row * args.columns;
    int8_t* codes = args.codes + row * args.columns;
    float largest = 0;
    bool finite = true;
    for (int64_t k = 0; k < args.columns; ++k) {
      const float value = FromSixteen(input[k], args.bfloat16);
      finite = finite && std::isfinite(value);
      largest = std::max(largest, std::abs(value));
    }
    const Int8Scaling scaling = Int8ScalingOf(finite ? largest : INFINITY);
    args.scales[row] = scaling.scale;
    for (int64_t k = 0; k < args.columns; ++k) {
      const float value = FromSixteen(input[k], args.bfloat16);
      codes[k] = static_cast<int8_t>(Int8Code(value, scaling.inverse));
    }
  }
}

}  // namespace quantd::kernels
