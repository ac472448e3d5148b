// Three cases, from the cheapest: one new position (no mask, no copies of keys), a whole sequence
// (causal kernel), everything else (chunks of queries against the keys they can see, each with an
// explicit mask).
#include "workers/engine/models/attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace quantd::engine {
namespace {

// Queries a chunk: enough to keep matrix products at speed, and few beside any long context.
constexpr int64_t kChunkQueries = 512;

// Positions [first, first + count).
struct Range {
  int64_t first = 0;
  int64_t count = 0;
};

// Bool [T, S], or [B, 1, T, S] with starts: true where a query sees a key.
at::Tensor Visible(Range queries, Range keys, const AttentionOptions& options, at::Device device) {
  const at::Tensor key = at::arange(keys.first, keys.first + keys.count, at::kLong);
  const at::Tensor query =
      at::arange(queries.first, queries.first + queries.count, at::kLong).unsqueeze(1);
  at::Tensor visible = key <= query;
  if (options.window > 0) visible = visible.logical_and(key > query - options.window);
  if (options.starts != nullptr && !options.starts->empty()) {
    const at::Tensor start = at::tensor(*options.starts, at::kLong).view({-1, 1, 1, 1});
    // A padding query sees itself, or its softmax would be over nothing and give NaN.
    visible = visible.logical_and((key >= start).logical_or(key == query));
  }
  return visible.to(device);
}

// The same as scaled_dot_product_attention, which knows no cap: scores in the working dtype,
// softmax in float32, as transformers does. `visible` may be undefined: everything.
at::Tensor CappedAttention(const at::Tensor& query, const at::Tensor& keys,
                           const at::Tensor& values, const at::Tensor& visible, double scale,
                           double softcap) {
  const int64_t batch = query.size(0), heads = query.size(1), count = query.size(2);
  const int64_t kv_heads = keys.size(1), dim = query.size(3);
  const at::Tensor grouped = query.reshape({batch, kv_heads, heads / kv_heads * count, dim});
  at::Tensor scores = at::matmul(grouped, keys.transpose(2, 3)).mul_(scale);
  scores.div_(softcap).tanh_().mul_(softcap);
  scores = scores.view({batch, heads, count, keys.size(2)});
  if (visible.defined()) {
    scores.masked_fill_(visible.logical_not(), -std::numeric_limits<float>::infinity());
  }
  const at::Tensor weights = at::softmax(scores, -1, at::kFloat).to(query.scalar_type());
  return at::matmul(weights.view({batch, kv_heads, -1, keys.size(2)}), values)
      .view({batch, heads, count, dim});
}

// One query position: the heads of a group are taken as positions that share their keys.
at::Tensor AttendOne(const at::Tensor& query, at::Tensor keys, at::Tensor values, double scale,
                     const AttentionOptions& options) {
  const int64_t batch = query.size(0), heads = query.size(1), dim = query.size(3);
  const int64_t kv_heads = keys.size(1), length = keys.size(2);
  if (options.window > 0 && options.window < length) {
    keys = keys.narrow(2, length - options.window, options.window);
    values = values.narrow(2, length - options.window, options.window);
  }
  if (options.softcap > 0) return CappedAttention(query, keys, values, {}, scale, options.softcap);
  const at::Tensor grouped = query.reshape({batch, kv_heads, heads / kv_heads, dim});
  return at::scaled_dot_product_attention(grouped, keys, values, std::nullopt, 0.0,
                                          /*is_causal=*/false, scale)
      .reshape({batch, heads, int64_t{1}, dim});
}

}  // namespace

at::Tensor Attend(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                  const AttentionOptions& options) {
  const int64_t count = query.size(2), length = keys.size(2);
  const bool padded = options.starts != nullptr && !options.starts->empty();
  const double scale =
      options.scale > 0 ? options.scale : 1.0 / std::sqrt(static_cast<double>(query.size(3)));
  if (count == 1 && !padded) return AttendOne(query, keys, values, scale, options);
  const bool grouped = query.size(1) != keys.size(1);
  const bool window_binds = options.window > 0 && options.window < length;
  if (!padded && !window_binds && count == length && options.softcap == 0) {
    return at::scaled_dot_product_attention(query, keys, values, std::nullopt, 0.0,
                                            /*is_causal=*/true, scale, grouped);
  }
  std::vector<at::Tensor> chunks;
  for (int64_t begin = 0; begin < count; begin += kChunkQueries) {
    const int64_t size = std::min(kChunkQueries, count - begin);
    const Range queries = {length - count + begin, size};
    const int64_t end = queries.first + size;
    const int64_t first_key =
        window_binds ? std::max<int64_t>(0, queries.first - options.window + 1) : 0;
    const Range seen = {first_key, end - first_key};
    const at::Tensor q = query.narrow(2, begin, size);
    const at::Tensor k = keys.narrow(2, seen.first, seen.count);
    const at::Tensor v = values.narrow(2, seen.first, seen.count);
    const at::Tensor visible = Visible(queries, seen, options, query.device());
    chunks.push_back(options.softcap > 0
                         ? CappedAttention(q, k, v, visible, scale, options.softcap)
                         : at::scaled_dot_product_attention(q, k, v, visible, 0.0,
                                                            /*is_causal=*/false, scale, grouped));
  }
  return chunks.size() == 1 ? chunks[0] : at::cat(chunks, 2);
}

}  // namespace quantd::engine
