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
    float largest = 0;
    bool finite = true;
    for (int64_t k = 0; k < args.columns; ++k) {
      const float value = FromSixteen(input[k], args.bfloat16);
      finite = finite && std::isfinite(value);
      largest = std::max(largest, std::abs(value));
    }
    const bool known = args.scale > 0;
    const Int8Scaling scaling =
        known ? Int8Scaling{args.scale, 0} : Int8ScalingOf(finite ? largest : INFINITY);
    if (args.rounded == nullptr) args.scales[row] = scaling.scale;
    for (int64_t k = 0; k < args.columns; ++k) {
      const float value = FromSixteen(input[k], args.bfloat16);
      const float code =
          known ? StaticInt8Code(value, scaling.scale) : Int8Code(value, scaling.inverse);
      const int64_t at = row * args.columns + k;
      if (args.rounded != nullptr) {
        args.rounded[at] = ToSixteen(scaling.scale * code, args.bfloat16);
      } else {
        args.codes[at] = static_cast<int8_t>(code);
      }
    }
  }
}

}  // namespace quantd::kernels
