// The formula of quantize_rows.h as it stands.
#include <algorithm>
#include <cmath>
#include <limits>

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
    args.scales[row] = !finite        ? std::numeric_limits<float>::quiet_NaN()
                       : largest == 0 ? 1.0f
                                      : largest / 127.0f;
    const float inverse = finite && largest > 0 ? 127.0f / largest : 0;
    for (int64_t k = 0; k < args.columns; ++k) {
      // A subnormal largest has no finite inverse; its codes stop at the ends.
      const float code = finite && inverse > 0
                             ? std::nearbyint(FromSixteen(input[k], args.bfloat16) * inverse)
                             : 0;
      codes[k] = static_cast<int8_t>(std::isnan(code) ? 0 : std::clamp(code, -127.0f, 127.0f));
    }
  }
}

}  // namespace quantd::kernels
