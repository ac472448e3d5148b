// See float_product.h.
#include "workers/engine/tensor/float_product.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/mm.h>

namespace quantd::engine {

at::Tensor FloatProduct(const at::Tensor& a, const at::Tensor& b) {
  const bool batched = a.dim() == 3;
  if (a.is_cuda() && a.scalar_type() != at::kFloat) {
    return batched ? at::bmm(a, b, at::kFloat) : at::mm(a, b, at::kFloat);
  }
  const at::Tensor wide_a = a.to(at::kFloat), wide_b = b.to(at::kFloat);
  return batched ? at::bmm(wide_a, wide_b) : at::mm(wide_a, wide_b);
}

}  // namespace quantd::engine
