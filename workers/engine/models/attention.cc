// Three cases, from the cheapest: one new position (no mask, no copies of keys), a whole sequence
// (causal kernel), everything else (an explicit mask).
#include "workers/engine/models/attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <optional>

namespace quantd::engine {
namespace {

// Bool [T, S], or [B, 1, T, S] with starts: true where a query sees a key.
at::Tensor Visible(int64_t queries, int64_t keys, const AttentionMask& mask, at::Device device) {
  const at::Tensor key = at::arange(keys, at::kLong);
  const at::Tensor query = at::arange(keys - queries, keys, at::kLong).unsqueeze(1);
  at::Tensor visible = key <= query;
  if (mask.window > 0) visible = visible.logical_and(key > query - mask.window);
  if (mask.starts != nullptr && !mask.starts->empty()) {
    const at::Tensor start = at::tensor(*mask.starts, at::kLong).view({-1, 1, 1, 1});
    // A padding query sees itself, or its softmax would be over nothing and give NaN.
    visible = visible.logical_and((key >= start).logical_or(key == query));
  }
  return visible.to(device);
}

// One query position: the heads of a group are taken as positions that share their keys.
at::Tensor AttendOne(const at::Tensor& query, at::Tensor keys, at::Tensor values, int64_t window) {
  const int64_t batch = query.size(0), heads = query.size(1), dim = query.size(3);
  const int64_t kv_heads = keys.size(1), length = keys.size(2);
  if (window > 0 && window < length) {
    keys = keys.narrow(2, length - window, window);
    values = values.narrow(2, length - window, window);
  }
  const at::Tensor grouped = query.reshape({batch, kv_heads, heads / kv_heads, dim});
  return at::scaled_dot_product_attention(grouped, keys, values)
      .reshape({batch, heads, int64_t{1}, dim});
}

}  // namespace

at::Tensor Attend(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                  const AttentionMask& mask) {
  const int64_t count = query.size(2), length = keys.size(2);
  const bool padded = mask.starts != nullptr && !mask.starts->empty();
  if (count == 1 && !padded) return AttendOne(query, keys, values, mask.window);
  const bool grouped = query.size(1) != keys.size(1);
  const bool window_binds = mask.window > 0 && mask.window < length;
  if (!padded && !window_binds && count == length) {
    return at::scaled_dot_product_attention(query, keys, values, std::nullopt, 0.0,
                                            /*is_causal=*/true, std::nullopt, grouped);
  }
  return at::scaled_dot_product_attention(query, keys, values,
                                          Visible(count, length, mask, query.device()), 0.0,
                                          /*is_causal=*/false, std::nullopt, grouped);
}

}  // namespace quantd::engine
