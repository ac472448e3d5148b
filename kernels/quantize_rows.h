// Activations to int8 while they pass, or to what int8 would make of them: one scale a row (a
// token), found and used in one kernel.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/host_device.h"

namespace quantd::kernels {

// input [rows, columns], binary16 or bfloat16. For each row, with largest = max |input|:
//   scale = largest / 127;  code = round(input * (127 / largest)), halves to even
// all in float32. A row of zeros has scale 1 and codes 0; a row that holds NaN or infinity has
// scale NaN and codes 0, so that whatever is computed from it is NaN. A `scale` above 0, found
// beforehand, is every row's instead; code = round(input / scale) is then cut to -128 ... 127, and
// NaN becomes 0. columns a multiple of 8, input 16-byte aligned, strides the width. Where `rounded`
// [rows, columns] is given it gets scale * code in the 16-bit type, in place of codes and scales;
// 16-byte aligned, it may be the input. Variants agree bit for bit.
struct QuantizeRows {
  int64_t rows = 0;
  int64_t columns = 0;
  bool bfloat16 = false;
  const uint16_t* input = nullptr;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  uint16_t* rounded = nullptr;
  float scale = 0;
  void* stream = nullptr;  // cuda only.
};

void QuantizeRowsReference(const QuantizeRows& args);

// norm_rows and gate_rows can make int8 of their output while it is at hand: what is asked of
// quantize_rows then, with `output` for its input.
template <typename Args>
QD_HOST_DEVICE QuantizeRows Int8Of(const Args& args, const uint16_t* output) {
  return {.rows = args.rows,
          .columns = args.columns,
          .bfloat16 = args.bfloat16,
          .input = output,
          .codes = args.codes,
          .scales = args.scales,
          .scale = args.scale};
}

// The reference of an operation with int8 output, by that of the operation with 16-bit output.
template <typename Args>
void ThenQuantize(const Args& args, void (*reference)(const Args&)) {
  std::vector<uint16_t> output(static_cast<size_t>(args.rows * args.columns));
  Args plain = args;
  plain.codes = nullptr;
  plain.output = output.data();
  reference(plain);
  QuantizeRowsReference(Int8Of(args, output.data()));
}

}  // namespace quantd::kernels
