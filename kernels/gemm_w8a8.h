// Matrix products of int8 with int8, a scale for each row of the input and each row of the weight,
// as SmoothQuant-like checkpoints want them.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// output[m, rows] = sums * (input_scales[m] * weight_scales[rows]) + bias[rows], where sums =
// input[m, columns] * weight[rows, columns]^T is exact in int32 and the rest is float32 in this
// order, rounded once to binary16 or bfloat16: variants agree bit for bit. bias may be null. Where
// there is a residual [m, rows], which may be the output, it is added then, and the sum rounded in
// turn. The weight lies as files hold it. columns a multiple of 16 and at most 2^17; input, weight,
// residual and output 16-byte aligned; strides the widths; m = 0 is allowed. `weight_is_settled` as
// in gemm_w4a16.h. Returns an error's text, or null.
struct GemmW8A8 {
  int64_t m = 0;
  int64_t rows = 0;
  int64_t columns = 0;
  const int8_t* input = nullptr;
  const float* input_scales = nullptr;
  const int8_t* weight = nullptr;
  const float* weight_scales = nullptr;
  const uint16_t* bias = nullptr;
  const uint16_t* residual = nullptr;
  bool bfloat16 = false;
  uint16_t* output = nullptr;
  bool weight_is_settled = false;
  void* stream = nullptr;
};

const char* GemmW8A8Reference(const GemmW8A8& args);

}  // namespace quantd::kernels
