// Root mean square norms of rows of 16-bit numbers in one pass over memory, with the roundings that
// transformers makes: what libtorch does in eight passes.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// Each row x of input [rows, columns], T the 16-bit type, becomes
//
//   y = x * (1 / sqrt(mean(x^2) + eps)) in float32
//   plus_one false (Llama):  output = T(weight * T(y))     the product rounded once
//   plus_one true (Gemma):   output = T(y * (1 + weight))  in float32, rounded once
//
// weight [columns] of T. columns a multiple of 8; all 16-byte aligned; strides the width; input may
// be output. Before it is rounded y is within (columns / 64 + 24) 2^-24 of its exact value,
// relatively. A row that holds NaN or infinity becomes NaN wherever it is not infinite. Where
// `codes` is given, it and `scales` get in place of output what quantize_rows.h makes of that (with
// `scale`), the same bits.
struct NormRows {
  int64_t rows = 0;
  int64_t columns = 0;
  bool bfloat16 = false;
  bool plus_one = false;
  float eps = 0;
  const uint16_t* input = nullptr;
  const uint16_t* weight = nullptr;
  uint16_t* output = nullptr;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  float scale = 0;
  void* stream = nullptr;  // cuda only.
};

void NormRowsReference(const NormRows& args);

}  // namespace quantd::kernels
