// Activations times a Hadamard matrix of any size that models have, and to int8 while they are at
// hand: what rotated models (QuaRot, Ashkboos et al., 2024) do before a product, at run time.
#pragma once

#include <cmath>
#include <cstdint>

namespace quantd::kernels {

// Each row of input [rows, columns] is cut into pieces of n = order * power numbers, and of each
// piece x, seen as [order, power],
//
//   y[b, j] = 1 / sqrt(n) * sum over a, i of x[a, i] * matrix[a, b] * S[i, j]
//
// with S[i, j] = -1 to the number of common bits of i and j (Sylvester's matrix); that is x times
// (matrix x S) / sqrt(n). power is a power of two, order 1 or a multiple of 4 up to
// kHadamardOrderMax, and then power at least 4; columns a multiple of n and of 8; matrix float32
// [order, order] of 1 and -1, null for order 1.
//
// y is wanted in 16 bits (output), as int8 with a scale a row (codes and scales, by the formulas of
// quantize_rows.h on y before it is rounded), or both; null: not wanted. Sums are float32: along
// the bits of i from the lowest up, then over a from 0 up, then times the factor; cpu and cuda
// agree bit for bit, and
//
//   |y - exact| <= (log2(power) + order + 2) 2^-24 / sqrt(n) * sum |x|
//
// input, output and matrix 16-byte aligned, codes 8-byte; input may be output; strides the width.
// cuda takes columns up to kHadamardColumnsMax, with a matrix up to kHadamardMatrixColumnsMax.
// Returns an error's text, or null.
struct HadamardRows {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t power = 1;
  int64_t order = 1;
  const float* matrix = nullptr;
  bool bfloat16 = false;
  const uint16_t* input = nullptr;
  uint16_t* output = nullptr;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  void* stream = nullptr;  // cuda only.
};
constexpr int64_t kHadamardOrderMax = 1024;
constexpr int64_t kHadamardColumnsMax = 49152;
constexpr int64_t kHadamardMatrixColumnsMax = 32768;

inline float HadamardFactor(const HadamardRows& args) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(args.order * args.power)));
}
// What is wrong with the sizes, or null.
inline const char* HadamardError(const HadamardRows& args) {
  if (args.power < 1 || (args.power & (args.power - 1)) != 0) {
    return "hadamard_rows: power is not a power of two";
  }
  const bool plain = args.order == 1 && args.matrix == nullptr;
  const bool whole =
      args.order >= 4 && args.order % 4 == 0 && args.order <= kHadamardOrderMax && args.power >= 4;
  if (!plain && (!whole || args.matrix == nullptr)) {
    return "hadamard_rows: order is not 1, or with a matrix and a power from 4 on a multiple of 4 "
           "up to 1024";
  }
  if (args.columns % 8 != 0 || args.columns % (args.order * args.power) != 0) {
    return "hadamard_rows: the columns are not a multiple of 8 and of order * power";
  }
  return nullptr;
}

const char* HadamardRowsReference(const HadamardRows& args);
const char* HadamardRowsCpu(const HadamardRows& args);

}  // namespace quantd::kernels
