// Codes by rounding to nearest with given scales and zeros.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// codes[r, k] = clamp(round(weight[r, k] / scale) + zero, 0, 2^bits - 1), halves to even, scale and
// zero of (r, k / group_columns). weight f32 finite; scales binary16 bits, positive. All row-major
// with the strides given; in and out disjoint. Allocates nothing, thread-safe.
struct RtnRows {
  const float* weight = nullptr;
  int64_t weight_stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t group_columns = 0;
  int bits = 4;
  const uint16_t* scales = nullptr;
  const uint8_t* zeros = nullptr;
  int64_t params_stride = 0;
  uint8_t* codes = nullptr;
  int64_t codes_stride = 0;
  void* stream = nullptr;  // cuda only.
};

void RtnRowsReference(const RtnRows& args);
void RtnRowsCpu(const RtnRows& args);

}  // namespace quantd::kernels
