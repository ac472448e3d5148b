// Products of 16-bit matrices with float32 sums. What 16 bits hold multiplies exactly in float32,
// so a GPU's tensor cores give, many times faster, what widening both sides first would.
#pragma once

#include <ATen/core/Tensor.h>

namespace quantd::engine {

// Of matrices, or of equally many matrices each ([B, n, k] x [B, k, m]); float32. Throws what
// libtorch throws.
at::Tensor FloatProduct(const at::Tensor& a, const at::Tensor& b);

}  // namespace quantd::engine
