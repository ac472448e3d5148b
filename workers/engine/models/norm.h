// Normalization layers.
#pragma once

#include <ATen/core/Tensor.h>

#include "workers/engine/models/architecture.h"
#include "workers/engine/models/block.h"
#include "workers/engine/models/input_quantization.h"

namespace quantd::engine {

// x [..., N] over its last dimension; computed in float32 where transformers does. Throws what
// libtorch throws.
at::Tensor ApplyNorm(const at::Tensor& x, const Linear& norm, NormKind kind, double eps);
// What QuantizeInput makes of that, the same bits, in one pass; nothing where no kernel does so.
Int8Input NormToInt8(const at::Tensor& x, const Linear& norm, NormKind kind, double eps,
                     const InputQuantization& quantization);

}  // namespace quantd::engine
