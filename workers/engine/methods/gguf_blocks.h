// GGUF's tensor types as block encodings of linears, and weights put into them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/gguf_types.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/methods/quantized_linear.h"

namespace quantd::engine {

absl::Span<const BlockEncoding> GgufEncodings();
// Null for an unknown name.
const BlockEncoding* FindGgufEncoding(absl::string_view name);
kernels::GgufType GgufTypeOf(const BlockEncoding& encoding);

// The type that holds rows of `inputs` weights where `name` may not: q4_k wants a multiple of 256,
// q4_0 one of 32. What llama.cpp falls back to.
absl::string_view GgufTypeFor(absl::string_view name, int64_t inputs);

// weight float32 [N, K] on the CPU, finite, contiguous; importance float32 [K] or undefined. K is a
// multiple of the type's block.
BlockLinear QuantizeToBlocks(const at::Tensor& weight, const BlockEncoding& encoding,
                             const at::Tensor& importance);

// What a layer is stored as where `type` was asked for.
LinearScheme BlockScheme(absl::string_view name, int64_t outputs, int64_t inputs,
                         absl::string_view type);

// A whole layer: the blocks, the (weighted) squared error that they leave, and a fallback where the
// rows do not fit the type. Throws what libtorch throws.
absl::StatusOr<LinearResult> QuantizeBlocks(const std::string& name, const at::Tensor& weight,
                                            absl::string_view type, const at::Tensor& importance);

}  // namespace quantd::engine
