// Eight-bit codes of rows that share their largest magnitude: the weights of LLM.int8 (Dettmers et
// al., 2022).
#pragma once

#include <cstdint>

namespace quantd::kernels {

// absmax[r] = max|weight[r, :]|; codes[r, k] = 128 + round(weight * (127 * (1 / absmax[r]))),
// halves to even, in float32; 128 throughout for a row of zeros. weight f32, finite, zero or above
// 1e-30 in magnitude (binary16 numbers are); codes 1 ... 255. All row-major with the strides given;
// in and out disjoint. Allocates nothing, thread-safe.
struct Int8Rows {
  const float* weight = nullptr;
  int64_t weight_stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  float* absmax = nullptr;
  uint8_t* codes = nullptr;
  int64_t codes_stride = 0;
};

void Int8RowsReference(const Int8Rows& args);
void Int8RowsCpu(const Int8Rows& args);

}  // namespace quantd::kernels
