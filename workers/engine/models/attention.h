// Grouped-query attention over what the cache and this call hold: causal, with or without a sliding
// window and padding on the left.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace quantd::engine {

struct AttentionMask {
  int64_t window = 0;  // Keys a query sees, itself included; 0: all before it.
  const std::vector<int64_t>* starts =
      nullptr;  // First real position of every sequence; null or empty: 0.
};

// query [B, heads, T, D]; keys, values [B, kv_heads, S, D] with S >= T: the queries are the last T
// positions. Returns [B, heads, T, D]. Scaled by 1 / sqrt(D). Throws what libtorch throws.
at::Tensor Attend(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                  const AttentionMask& mask);

}  // namespace quantd::engine
