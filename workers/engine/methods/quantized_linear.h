// A linear layer after quantization: the only currency between methods (which make it) and formats
// (which write and read it), so that neither knows the other.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd::engine {

// weight[n, k] = scales[n, group_index[k]] * (codes[n, k] - zeros[n, group_index[k]]).
// N = outputs, K = inputs, G = number of groups. All tensors are contiguous and on the CPU; they
// are shared, not copied, when the struct is copied.
struct QuantizedLinear {
  int bits = 4;             // 2, 3, 4 or 8.
  int64_t group_size = -1;  // Columns that share one scale; -1: all K.
  bool symmetric = true;    // Every zero is 2^(bits-1).
  at::Tensor codes;         // uint8 [N, K], in the layer's own column order, each < 2^bits.
  at::Tensor scales;        // float16 [N, G], finite.
  at::Tensor
      zeros;  // uint8 [N, G], each < 2^bits; methods write 1 at least (format gptq v1 needs it).
  at::Tensor group_index;  // int32 [K], each < G.

  int64_t outputs() const { return codes.size(0); }
  int64_t inputs() const { return codes.size(1); }
  int64_t groups() const { return scales.size(1); }

  // The weight [N, K] on the CPU. The product is formed in float32 and then rounded once to
  // `dtype`, so that every reader of the same codes gets the same bits. Thread-safe.
  // ResourceExhausted when memory is short.
  absl::StatusOr<at::Tensor> Dequantize(at::ScalarType dtype) const;

  // Shapes, dtypes and ranges as above; InvalidArgument names the first thing that is wrong.
  absl::Status Check() const;
};

}  // namespace quantd::engine
