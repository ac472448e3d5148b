// What a gated MLP's last linear reads, f(gate) * up, in one pass over memory: libtorch takes two
// and writes f(gate) between them.
#pragma once

#include <cstdint>

#include "kernels/activation.h"

namespace quantd::kernels {

// gate, up [rows, columns], the beginnings of their rows `stride` numbers apart; T the 16-bit type:
//
//   output [rows, columns] = T(T(f(gate)) * up)
//
// with f of activation.h in float32. columns and stride multiples of 8, all 16-byte aligned, the
// output's stride the width; output may be gate where that has no gaps. f is within 2^-21 |gate| of
// its exact value. Where `codes` is given, it and `scales` get in place of output what
// quantize_rows.h makes of that (with `scale`), the same bits.
struct GateRows {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  bool bfloat16 = false;
  Activation activation = Activation::kNone;
  const uint16_t* gate = nullptr;
  const uint16_t* up = nullptr;
  uint16_t* output = nullptr;
  int8_t* codes = nullptr;
  float* scales = nullptr;
  float scale = 0;
  void* stream = nullptr;  // cuda only.
};

void GateRowsReference(const GateRows& args);

}  // namespace quantd::kernels
