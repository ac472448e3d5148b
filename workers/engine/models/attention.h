// Grouped-query attention over what the cache and this call hold: causal, with or without a sliding
// window, padding on the left and soft-capped scores. Masks and scores that exist at once are
// bounded by a chunk of queries, never [T, S] of a long prompt, unless the caller gives the mask.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace quantd::engine {

struct AttentionOptions {
  int64_t window = 0;  // Keys a query sees, itself included; 0: all before it.
  const std::vector<int64_t>* starts =
      nullptr;  // First real position of every sequence; null or empty: 0.
  // Bool [B, 1, T, S]: true where a query sees a key. Undefined: as window and starts say; defined:
  // they are not looked at.
  at::Tensor visible;
  double scale = 0;    // Of scores; 0: 1 / sqrt(D).
  double softcap = 0;  // Scores become softcap * tanh(score / softcap); 0: as they are.
};

// query [B, heads, T, D]; keys, values [B, kv_heads, S, D] with S >= T: the queries are the last T
// positions. Returns [B, heads, T, D]. Throws what libtorch throws.
at::Tensor Attend(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                  const AttentionOptions& options);

}  // namespace quantd::engine
