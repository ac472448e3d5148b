// Activations to int8 while they pass, or to what int8 would make of them: one scale a row (a
// token), found and used in one kernel.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// input [rows, columns], binary16 or bfloat16. For each row, with largest = max |input|:
//   scale = largest / 127;  code = round(input * (127 / largest)), halves to even
// all in float32. A row of zeros has scale 1 and codes 0; a row that holds NaN or infinity has
// scale NaN and codes 0, so that whatever is computed from it is NaN. columns a multiple of 8,
// input 16-byte aligned, strides the width. Where `rounded` [rows, columns] is given it gets
// scale * code in the 16-bit type, in place of codes and scales; 16-byte aligned, it may be the
// input. Variants agree bit for bit.
struct QuantizeRows {
  int64_t rows = 0;
  int64_t columns = 0;
  bool bfloat16 = false;
  const uint16_t* input = nullptr;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  uint16_t* rounded = nullptr;
  void* stream = nullptr;  // cuda only.
};

void QuantizeRowsReference(const QuantizeRows& args);

}  // namespace quantd::kernels
