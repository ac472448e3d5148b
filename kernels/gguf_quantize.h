// Rows of weights to GGUF blocks and back.
#pragma once

#include <cstdint>

#include "kernels/gguf_types.h"

namespace quantd::kernels {

// weight[rows, columns] f32, finite, row r at weight + r * weight_stride; columns is a multiple of
// the type's weights a block. Row r goes to blocks + r * row_bytes. In and out disjoint.
// Thread-safe.
//
// Without `importance`, f16, bf16, q8_0, q4_0, q4_1, q5_0 and q5_1 are the format's own definition
// (the codes that ggml writes): the scale follows from the block's extremes. With
// importance[columns]
// >= 0 (what an input channel's mean square is, say) q4_0 ... q5_1 search the scale (and minimum)
// that leave the least error in squares weighted by it. The k types always search: each sub-block
// fits a scale (and a minimum) by least squares over some twenty grids; then the numbers that the
// sub-blocks share are fitted to all of them, and every sub-block tries the neighbours of its
// rounded scale and minimum. q8_0 and the 16-bit types have nothing to search.
struct GgufQuantize {
  GgufType type = GgufType::kF16;
  const float* weight = nullptr;
  int64_t weight_stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  const float* importance = nullptr;  // [columns] or null: all columns count the same.
  uint8_t* blocks = nullptr;
  int64_t row_bytes = 0;
};

// The inverse: weight[rows, columns] f32 in the order of operations of ggml, so that all readers
// get the same bits.
struct GgufDequantize {
  GgufType type = GgufType::kF16;
  const uint8_t* blocks = nullptr;
  int64_t row_bytes = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  float* weight = nullptr;
  int64_t weight_stride = 0;
};

void GgufQuantizeReference(const GgufQuantize& args);
void GgufQuantizeCpu(const GgufQuantize& args);
void GgufDequantizeReference(const GgufDequantize& args);
void GgufDequantizeCpu(const GgufDequantize& args);

}  // namespace quantd::kernels
