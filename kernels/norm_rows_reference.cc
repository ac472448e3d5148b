// The formula of norm_rows.h as it stands, y in float64.
#include <cmath>

#include "kernels/norm_rows.h"
#include "kernels/quantize_rows.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {

void NormRowsReference(const NormRows& args) {
  if (args.codes != nullptr) return ThenQuantize(args, NormRowsReference);
  for (int64_t row = 0; row < args.rows; ++row) {
    const uint16_t* input = args.input + row * args.columns;
    double sum = 0;
    for (int64_t k = 0; k < args.columns; ++k) {
      const double x = FromSixteen(input[k], args.bfloat16);
      sum += x * x;
    }
    const double inverse = 1 / std::sqrt(sum / static_cast<double>(args.columns) + args.eps);
    for (int64_t k = 0; k < args.columns; ++k) {
      const auto y = static_cast<float>(FromSixteen(input[k], args.bfloat16) * inverse);
      const float weight = FromSixteen(args.weight[k], args.bfloat16);
      const float rounded = FromSixteen(ToSixteen(y, args.bfloat16), args.bfloat16);
      args.output[row * args.columns + k] =
          ToSixteen(args.plus_one ? y * (1 + weight) : weight * rounded, args.bfloat16);
    }
  }
}

}  // namespace quantd::kernels
