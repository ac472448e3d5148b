// Tensors over the bytes of a checkpoint, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {

// A CPU tensor over the view's own bytes: no copy, read-only, valid as long as the file. Where the
// bytes are not aligned to the dtype it is a copy.
absl::StatusOr<at::Tensor> ViewTensor(const TensorView& view);

// The bytes of a contiguous CPU tensor; valid as long as it.
absl::Span<const uint8_t> TensorBytes(const at::Tensor& tensor);

// Writes `tensor` (any device, any strides) as `name`.
absl::Status WriteTensor(SafetensorsWriter& writer, absl::string_view name,
                         const at::Tensor& tensor);
// Name, dtype and shape as a writer or a shard plan wants them.
absl::StatusOr<TensorInfo> DescribeTensor(absl::string_view name, const at::Tensor& tensor);

}  // namespace quantd::engine
