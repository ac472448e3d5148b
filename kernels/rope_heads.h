// Rotary position embeddings of 16-bit heads in one pass, with the roundings that transformers
// makes: what libtorch does in seven.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// Heads x [batch, heads, tokens, dim] with any strides but the last, which is 1. Of each the first
// `turned` numbers are rotated in pairs (i, i + turned / 2), T the 16-bit type:
//
//   y[i] = T(T(x[i] * cos[i]) + T(-x[i + h] * sin[i])),  i < h = turned / 2
//   y[i] = T(T(x[i] * cos[i]) + T(x[i - h] * sin[i])),   h <= i < turned
//
// products and sums in float32; the others are copied. cos and sin [tokens, turned], or [batch,
// tokens, turned] where table_batch_stride is not 0. dim and turned multiples of 4, strides even,
// all 4-byte aligned; in and out disjoint. Variants agree bit for bit.
struct RopeHeads {
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t tokens = 0;
  int64_t dim = 0;
  int64_t turned = 0;
  bool bfloat16 = false;
  struct Strides {
    int64_t batch = 0, head = 0, token = 0;
  };
  const uint16_t* input = nullptr;
  Strides from;
  const uint16_t* cos = nullptr;
  const uint16_t* sin = nullptr;
  int64_t table_batch_stride = 0;
  uint16_t* output = nullptr;
  Strides to;
  void* stream = nullptr;  // cuda only.
};

void RopeHeadsReference(const RopeHeads& args);

}  // namespace quantd::kernels
