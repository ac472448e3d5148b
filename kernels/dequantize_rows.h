// Weights out of codes.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// weight[r, k] = scales[r, g] * (codes[r, k] - zeros[r, g]) with g = group_index[k]; f32. Exact: a
// binary16 scale has 11 significant bits and the difference 9, so their product fits a float. In
// and out disjoint. Every group_index is in [0, groups). Allocates nothing that grows with rows,
// thread-safe.
struct DequantizeRows {
  const uint8_t* codes = nullptr;
  int64_t codes_stride = 0;
  const uint16_t* scales = nullptr;
  const uint8_t* zeros = nullptr;
  int64_t params_stride = 0;
  const int32_t* group_index = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t groups = 0;
  float* weight = nullptr;
  int64_t weight_stride = 0;
  void* stream = nullptr;  // cuda only.
};

void DequantizeRowsReference(const DequantizeRows& args);
void DequantizeRowsCpu(const DequantizeRows& args);

}  // namespace quantd::kernels
