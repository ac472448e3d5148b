// The order of casts is that of transformers: Llama rounds before it multiplies, Gemma after.
#include "workers/engine/models/norm.h"

#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rsqrt.h>

namespace quantd::engine {

at::Tensor ApplyNorm(const at::Tensor& x, const Linear& norm, NormKind kind, double eps) {
  if (kind == NormKind::kLayer) {
    return at::layer_norm(x, {x.size(-1)}, norm.weight, norm.bias, eps);
  }
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scaled = wide * at::rsqrt(wide.pow(2).mean(-1, /*keepdim=*/true) + eps);
  if (kind == NormKind::kRms) return norm.weight * scaled.to(x.scalar_type());
  return (scaled * (norm.weight.to(at::kFloat) + 1.0)).to(x.scalar_type());
}

}  // namespace quantd::engine
