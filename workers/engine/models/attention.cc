// Three cases, from the cheapest: one new position (no mask, no copies of keys), a whole sequence
// (causal kernel), everything else (chunks of queries against the keys they can see, each with an
// explicit mask). A mask that the caller gives is used as it is.
#include "workers/engine/models/attention.h"

#include <ATen/Context.h>
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
// On a GPU cuDNN's attention is the fastest of long sequences, but it makes a plan for every shape
// that it has not seen, 50 ms of an H100's time; shorter ones come in too many shapes.
constexpr int64_t kPlannedQueries = 1024;

// Positions [first, first + count).
struct Range {
  int64_t first = 0;
  int64_t count = 0;
};

at::Tensor Sdpa(const at::Tensor& query, at::Tensor keys, at::Tensor values,
                const std::optional<at::Tensor>& visible, bool causal, double scale) {
  int64_t group = query.size(1) / keys.size(1);
  const bool planned = query.size(2) >= kPlannedQueries;
  // Written only to change it: several GPUs' threads come here.
  if (query.is_cuda() && at::globalContext().userEnabledCuDNNSDP() != planned) {
    at::globalContext().setSDPUseCuDNN(planned);
  }
  if (query.is_cuda() && visible.has_value() && group > 1) {
    // No kernel there takes a mask and groups both, and without one all scores would exist.
    keys = keys.repeat_interleave(group, 1);
    values = values.repeat_interleave(group, 1);
    group = 1;
  }
  return at::scaled_dot_product_attention(query, keys, values, visible, 0.0, causal, scale,
                                          /*enable_gqa=*/group > 1);
}

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

at::Tensor AttendVisible(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                         const at::Tensor& visible, double scale, double softcap) {
  return softcap > 0 ? CappedAttention(query, keys, values, visible, scale, softcap)
                     : Sdpa(query, keys, values, visible, /*causal=*/false, scale);
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
  return Sdpa(grouped, keys, values, std::nullopt, /*causal=*/false, scale)
      .reshape({batch, heads, int64_t{1}, dim});
}

}  // namespace

at::Tensor Attend(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                  const AttentionOptions& options) {
  const int64_t count = query.size(2), length = keys.size(2);
  const bool padded = options.starts != nullptr && !options.starts->empty();
  const double scale =
      options.scale > 0 ? options.scale : 1.0 / std::sqrt(static_cast<double>(query.size(3)));
  if (options.visible.defined()) {
    return AttendVisible(query, keys, values, options.visible, scale, options.softcap);
  }
  if (count == 1 && !padded) return AttendOne(query, keys, values, scale, options);
  const bool window_binds = options.window > 0 && options.window < length;
  if (!padded && !window_binds && count == length && options.softcap == 0) {
    return Sdpa(query, keys, values, std::nullopt, /*causal=*/true, scale);
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
    chunks.push_back(AttendVisible(q, k, v, visible, scale, options.softcap));
  }
  return chunks.size() == 1 ? chunks[0] : at::cat(chunks, 2);
}

}  // namespace quantd::engine
