// Normalization layers.
#pragma once

#include <ATen/core/Tensor.h>

#include "workers/engine/models/architecture.h"
#include "workers/engine/models/block.h"

namespace quantd::engine {

// x [..., N] over its last dimension; computed in float32 where transformers does. Throws what
// libtorch throws.
at::Tensor ApplyNorm(const at::Tensor& x, const Linear& norm, NormKind kind, double eps);

}  // namespace quantd::engine
