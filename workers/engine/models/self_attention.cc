// Queries, keys and values from one linear or three, their norms and rotation, the cache.
#include <cmath>
#include <tuple>
#include <vector>

#include "base/status_macros.h"
#include "workers/engine/models/attention.h"
#include "workers/engine/models/head_codes.h"
#include "workers/engine/models/layer.h"
#include "workers/engine/models/online_rotation.h"

namespace quantd::engine {
namespace {

struct Heads {
  at::Tensor q, k, v;  // [B, T, heads, head_dim]
};

absl::StatusOr<Heads> Project(const LayerPass& pass, const LinearInput& normed) {
  const ModelConfig& config = pass.config;
  const auto split = [&](const at::Tensor& x) {
    return x.view({normed.size(0), normed.size(1), -1, config.head_dim});
  };
  if (!pass.row.qkv.empty()) {
    QD_ASSIGN_OR_RETURN(const at::Tensor fused, pass.Apply(pass.row.qkv, normed));
    const at::Tensor all = split(fused);
    return Heads{.q = all.narrow(2, 0, config.heads),
                 .k = all.narrow(2, config.heads, config.kv_heads),
                 .v = all.narrow(2, config.heads + config.kv_heads, config.kv_heads)};
  }
  QD_ASSIGN_OR_RETURN(const at::Tensor q, pass.Apply(pass.row.q, normed));
  QD_ASSIGN_OR_RETURN(const at::Tensor k, pass.Apply(pass.row.k, normed));
  QD_ASSIGN_OR_RETURN(const at::Tensor v, pass.Apply(pass.row.v, normed));
  return Heads{.q = split(q), .k = split(k), .v = split(v)};
}

// Positions count from each sequence's own beginning.
RopeTable::Rows RopeRows(const LayerPass& pass, int64_t count) {
  RopeTable& rope = pass.rope;
  const KvCache* cache = pass.cache;
  if (pass.branches != nullptr) return rope.At(pass.branches->positions(), pass.branches->length());
  const int64_t first = cache == nullptr ? 0 : cache->length(pass.block.layer());
  if (cache == nullptr || cache->starts().empty()) return rope.Range(first, count);
  std::vector<int64_t> lengths;
  for (const int64_t start : cache->starts()) lengths.push_back(first + count - start);
  return rope.Last(lengths, count);
}

AttentionOptions Options(const LayerPass& pass) {
  const ModelConfig& config = pass.config;
  const int64_t layer = pass.block.layer();
  AttentionOptions options = {.softcap = config.attention_softcap};
  if (config.IsSliding(layer)) options.window = config.sliding_window;
  options.scale = AttentionScale(config, layer);
  if (pass.cache != nullptr) options.starts = &pass.cache->starts();
  if (pass.branches != nullptr) options.visible = pass.branches->Visible(options.window);
  return options;
}

// Everything in front of the last linear: [B, T, heads * head_dim].
absl::StatusOr<at::Tensor> Mix(const LayerPass& pass, const LinearInput& normed) {
  const int64_t batch = normed.size(0), count = normed.size(1), layer = pass.block.layer();
  QD_ASSIGN_OR_RETURN(Heads heads, Project(pass, normed));
  if (Has(pass.row.qk_norm, pass.config)) {
    heads.q = pass.Norm(pass.row.q_norm, heads.q);
    heads.k = pass.Norm(pass.row.k_norm, heads.k);
  }
  at::Tensor q = heads.q.transpose(1, 2), k = heads.k.transpose(1, 2);
  at::Tensor v = heads.v.transpose(1, 2);
  if (pass.row.position_embedding.empty()) {
    const RopeTable::Rows rows = RopeRows(pass, count);
    q = ApplyRope(q, rows);
    k = ApplyRope(k, rows);
  }
  const CacheTransform& kept = pass.config.cache;
  q = RotateOnline(q, kept.rotation);
  k = RotateOnline(k, kept.rotation);
  if (pass.cache != nullptr) {
    std::tie(k, v) = pass.cache->Append(layer, k, v, kept.bits);
  } else if (kept.bits < 16) {
    k = DecodeHeads(EncodeHeads(k, kept.bits), kept.bits, k.scalar_type());
    v = DecodeHeads(EncodeHeads(v, kept.bits), kept.bits, v.scalar_type());
  }
  return Attend(q, k, v, Options(pass))
      .transpose(1, 2)
      .reshape({batch, count, pass.config.heads * pass.config.head_dim});
}

}  // namespace

double AttentionScale(const ModelConfig& config, int64_t layer) {
  const double divisor =
      config.query_scalar > 0 ? config.query_scalar : static_cast<double>(config.head_dim);
  const double scale = 1.0 / std::sqrt(divisor);
  return config.scale_by_layer ? scale / static_cast<double>(layer + 1) : scale;
}

absl::StatusOr<at::Tensor> SelfAttention(const LayerPass& pass, const LinearInput& normed,
                                         const at::Tensor& residual) {
  QD_ASSIGN_OR_RETURN(const LinearInput mixed,
                      pass.At(BlockPoint::kMixed, [&] { return Mix(pass, normed); }));
  return pass.Apply(pass.row.output, mixed, residual);
}

}  // namespace quantd::engine
