// The formulas of gemm_w4a32.h as they stand, sums in float64.
#include "kernels/gemm_w4a32.h"

namespace quantd::kernels {
namespace {

double WeightAt(const W4Rows& weight, int64_t row, int64_t column) {
  const int64_t place = column % 64;
  const uint8_t byte =
      weight.codes[(row * weight.columns + column - place) / 2 + place % 8 * 4 + place / 16];
  const int code = place / 8 % 2 == 0 ? byte & 15 : byte >> 4;
  const int64_t group =
      row * (weight.columns / weight.group_columns) + column / weight.group_columns;
  const int zero = weight.zeros == nullptr ? 8 : weight.zeros[group];
  return static_cast<double>(weight.scales[group]) * (code - zero);
}

}  // namespace

void PackW4Rows(const uint8_t* codes, int64_t count, uint8_t* packed) {
  for (int64_t block = 0; block < count; block += 64) {
    for (int64_t word = 0; word < 8; ++word) {
      for (int64_t pair = 0; pair < 4; ++pair) {
        const uint8_t* low = codes + block + 16 * pair + word;
        *packed++ = static_cast<uint8_t>(low[0] | low[8] << 4);
      }
    }
  }
}

void GemmW4A32Reference(const GemmW4A32& args) {
  const W4Rows& weight = args.weight;
  for (int64_t m = 0; m < args.m; ++m) {
    for (int64_t row = 0; row < weight.rows; ++row) {
      double sum = args.bias == nullptr ? 0 : args.bias[row];
      for (int64_t k = 0; k < weight.columns; ++k) {
        sum += WeightAt(weight, row, k) * args.input[m * weight.columns + k];
      }
      args.output[m * weight.rows + row] = static_cast<float>(sum);
    }
  }
}

void UnpackW4A32Reference(const UnpackW4A32& args) {
  for (int64_t row = 0; row < args.packed.rows; ++row) {
    for (int64_t k = 0; k < args.packed.columns; ++k) {
      args.weight[row * args.packed.columns + k] =
          static_cast<float>(WeightAt(args.packed, row, k));
    }
  }
}

}  // namespace quantd::kernels
