// The formula of hadamard_rows.h as it stands, in float64.
#include <algorithm>
#include <bit>
#include <vector>

#include "kernels/hadamard_rows.h"
#include "kernels/int8_code.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {

const char* HadamardRowsReference(const HadamardRows& args) {
  if (const char* error = HadamardError(args)) return error;
  const int64_t n = args.order * args.power;
  std::vector<double> exact(args.columns);
  for (int64_t row = 0; row < args.rows; ++row) {
    const uint16_t* input = args.input + row * args.columns;
    for (int64_t column = 0; column < args.columns; ++column) {
      const uint16_t* piece = input + column / n * n;
      const int64_t b = column % n / args.power, j = column % args.power;
      double sum = 0;
      for (int64_t k = 0; k < n; ++k) {
        const int64_t a = k / args.power, i = k % args.power;
        const double x = FromSixteen(piece[k], args.bfloat16);
        const double sign = args.matrix == nullptr ? 1 : args.matrix[a * args.order + b];
        sum += std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? x * sign : -x * sign;
      }
      exact[column] = sum / std::sqrt(static_cast<double>(n));
    }
    float largest = 0;
    for (const double y : exact) {
      const auto size = static_cast<float>(std::abs(y));
      largest = std::isfinite(size) ? std::max(largest, size) : INFINITY;
      if (!std::isfinite(size)) break;
    }
    const Int8Scaling scaling = Int8ScalingOf(largest);
    if (args.scales != nullptr) args.scales[row] = scaling.scale;
    for (int64_t k = 0; k < args.columns; ++k) {
      const auto y = static_cast<float>(exact[k]);
      if (args.output != nullptr) args.output[row * args.columns + k] = ToSixteen(y, args.bfloat16);
      if (args.codes != nullptr) {
        args.codes[row * args.columns + k] = static_cast<int8_t>(Int8Code(y, scaling.inverse));
      }
    }
  }
  return nullptr;
}

}  // namespace quantd::kernels
