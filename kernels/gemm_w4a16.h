// Matrix products of 16-bit activations with 4-bit weights, which are decoded on the way into the
// tensor cores and never stored in 16 bits. The layout on the device is a repacking of the codes,
// made once when a model is loaded; files keep their standard layouts.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace quantd::kernels {

enum class W4Kind {
  kSymmetric,  // w = scale * (code - 8)
  kZeroPoint,  // w = scale * (code - zero); zero any binary16 number (HQQ's are not integers)
  kNf4,        // w = scale * NF4[code] (Dettmers et al., 2023)
  kFp4,        // w = scale * FP4[code] (bitsandbytes' e2m1 table, scaled to [-1, 1])
};
QD_HOST_DEVICE constexpr bool IsTable(W4Kind kind) {
  return kind == W4Kind::kNf4 || kind == W4Kind::kFp4;
}

// Quantiles of the normal distribution as bitsandbytes' NF4 has them.
inline constexpr float kNf4[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};
// A sign, and 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4 by the other bits.
inline constexpr float kFp4[16] = {
    0.0f,  0.005208333333f,  0.66666667f,  1.0f,  0.33333333f,  0.5f,  0.16666667f,  0.25f,
    -0.0f, -0.005208333333f, -0.66666667f, -1.0f, -0.33333333f, -0.5f, -0.16666667f, -0.25f};
// The value of each code of a table.
inline const float* W4Table(W4Kind kind) { return kind == W4Kind::kNf4 ? kNf4 : kFp4; }

// A weight [rows, columns] (outputs, inputs). Columns in groups of group_columns (a multiple of
// 128, or 32, 64; at least `columns` for one group a row) share a scale.
struct W4Shape {
  int64_t rows = 0;
  int64_t columns = 0;  // Multiple of 8, which 16-byte loads of the activations need.
  int64_t group_columns = 128;
  W4Kind kind = W4Kind::kSymmetric;
};

// The packed layout: tiles of 16 rows x 128 columns, each one run of bytes, so that a warp streams
// memory front to back:
//
//   tile [column tile][row tile]
//     | 8 steps of 16 columns, 4 steps each [32 lanes][4 words]  1024 bytes
//     | scales [groups in the tile][row 0, 8, 1, 9, ... 7, 15]   binary16; tables: float32
//     | zeros, likewise, binary16                                kZeroPoint only
//
// A word is what a lane feeds to one mma.m16n8k16 (or wgmma) as its share of the weights. Nibble p:
// row lane / 4 + 8 * (p & 1), column 2 * (lane % 4) + 8 * (p >> 1 & 1) + (p >> 2). Tables: byte p
// holds those of nibbles p (low) and p + 4. Rows and columns beyond the matrix weigh zero.
constexpr int kW4TileRows = 16;
constexpr int kW4TileColumns = 128;
constexpr int kW4CodeBytes = kW4TileRows * kW4TileColumns / 2;

// Groups of one tile; a group wider than the tile is repeated in each.
QD_HOST_DEVICE inline int64_t W4TileGroups(const W4Shape& shape) {
  return shape.group_columns < kW4TileColumns ? kW4TileColumns / shape.group_columns : 1;
}
QD_HOST_DEVICE inline int64_t W4TileBytes(const W4Shape& shape) {
  const int64_t scale = IsTable(shape.kind) || shape.kind == W4Kind::kZeroPoint ? 4 : 2;
  return kW4CodeBytes + W4TileGroups(shape) * kW4TileRows * scale;
}
QD_HOST_DEVICE inline int64_t W4ColumnTiles(const W4Shape& shape) {
  return (shape.columns + kW4TileColumns - 1) / kW4TileColumns;
}
QD_HOST_DEVICE inline int64_t W4RowTiles(const W4Shape& shape) {
  return (shape.rows + 127) / 128 * 8;
}
inline int64_t W4Bytes(const W4Shape& shape) {
  return W4RowTiles(shape) * W4ColumnTiles(shape) * W4TileBytes(shape);
}

// codes [rows, columns], each < 16; scales [rows, groups] and (kZeroPoint) zeros binary16, for
// tables table_scales float32 instead. Writes W4Bytes(shape) at `packed`, 16-byte aligned.
struct PackW4 {
  W4Shape shape;
  const uint8_t* codes = nullptr;
  const uint16_t* scales = nullptr;
  const uint16_t* zeros = nullptr;
  const float* table_scales = nullptr;
  void* packed = nullptr;
  void* stream = nullptr;
};

// weight [rows, columns], rounded once to binary16 or bfloat16.
struct UnpackW4 {
  W4Shape shape;
  const void* packed = nullptr;
  bool bfloat16 = false;
  uint16_t* weight = nullptr;
  void* stream = nullptr;
};

// output[m, rows] = input[m, columns] * weight^T + bias[rows] + residual[m, rows]; bias and
// residual may be null, residual may be output. All binary16, or all bfloat16. Sums are kept in
// float32, and rounded once at the end; code - zero and, for more than 16 rows of input, the weight
// itself are rounded to 16 bits, so that with u = 2^-11 (bfloat16: 2^-8)
//
//   |output - exact| <= sum |input| |weight| (4 u + columns 2^-23) + u |output|
//
// (binary16: + 2^-23 sum |input|, where a scale or a weight is below its normal numbers), and no
// result depends on other rows of the input or on timing. m = 0 is allowed. Strides are the
// widths. Returns an error's text, or null.
struct GemmW4A16 {
  W4Shape shape;
  int64_t m = 0;
  bool bfloat16 = false;
  const uint16_t* input = nullptr;
  const void* packed = nullptr;
  const uint16_t* bias = nullptr;
  const uint16_t* residual = nullptr;
  uint16_t* output = nullptr;
  // Nothing that may still run on the stream writes `packed`, so it may be read before that ends:
  // hides the start of one product behind the end of another.
  bool weight_is_settled = false;
  void* stream = nullptr;
};

// One element of the weight, as it is meant.
float W4Weight(const W4Shape& shape, const void* packed, int64_t row, int64_t column);

void PackW4Reference(const PackW4& args);
void UnpackW4Reference(const UnpackW4& args);
const char* GemmW4A16Reference(const GemmW4A16& args);

}  // namespace quantd::kernels
