// Matrix products of float32 activations with 4-bit weights on the CPU, where reading the weights
// is most of the time that few rows take: half a byte each instead of four.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// A weight [rows, columns] (outputs, inputs), w = scale * (code - zero), in groups of group_columns
// neighbouring columns. columns a multiple of 64 and of group_columns, that one of 32.
struct W4Rows {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t group_columns = 0;
  const uint8_t* codes = nullptr;  // [rows, columns / 2], as PackW4Rows leaves them.
  const float* scales = nullptr;   // [rows, columns / group_columns], finite.
  const uint8_t* zeros = nullptr;  // Likewise, each < 16; null: 8 everywhere.
};

// codes [count], each < 16, count a multiple of 64. Of each 64, word i of 8 (little-endian) gets
// the codes i, i + 8, ... i + 56 from its lowest bits on. packed [count / 2].
void PackW4Rows(const uint8_t* codes, int64_t count, uint8_t* packed);

// output[m, rows] = input[m, columns] * weight^T + bias[rows], strides the widths; bias may be
// null. For each group the sum over (code - zero) * x, then the groups' sums times their scales, in
// float32:
//
//   |output - exact| <= (group_columns / 32 + columns / group_columns + 6) 2^-23 sum |x| |w|
//                       + 2^-24 |output|
//
// No result depends on other rows of the input or on threads. Thread-safe.
struct GemmW4A32 {
  int64_t m = 0;
  W4Rows weight;
  const float* input = nullptr;
  const float* bias = nullptr;
  float* output = nullptr;
};

// weight [rows, columns] in float32. Exact where scales are binary16 numbers.
struct UnpackW4A32 {
  W4Rows packed;
  float* weight = nullptr;
};

void GemmW4A32Reference(const GemmW4A32& args);
void GemmW4A32Cpu(const GemmW4A32& args);
void UnpackW4A32Reference(const UnpackW4A32& args);
void UnpackW4A32Cpu(const UnpackW4A32& args);

}  // namespace quantd::kernels
