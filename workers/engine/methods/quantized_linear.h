// A linear layer after quantization: the only currency between methods (which make it) and formats
// (which write and read it), so that neither knows the other. Three kinds of codes, one variant
// over them.
//
// All tensors are contiguous and on the CPU (within a method, codes that have a To may be on the
// job's device); they are shared, not copied, when a struct is copied. N = outputs, K = inputs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/methods/linear_scheme.h"
#include "workers/engine/models/input_quantization.h"

namespace quantd::engine {

// Affine codes: GPTQ, AWQ, compressed-tensors, HQQ, LLM.int8.
//
//   axis 1:  weight[n, k] = scales[n, g] * (codes[n, k] - zeros[n, g]),  g = group_index[k]
//   axis 0:  weight[n, k] = scales[r, k] * (codes[n, k] - zeros[r, k]),  r = n mod (N / group_size)
//
// With G groups scales and zeros are [N, G], with axis 0 [N / group_size, K] (and group_index is
// undefined).
struct QuantizedLinear {
  int bits = 4;             // 2 to 8.
  int64_t group_size = -1;  // Weights that share one scale; -1: all K.
  bool symmetric = true;    // Every zero is 2^(bits-1).
  at::Tensor codes = {};    // uint8 [N, K], in the layer's own column order, each < 2^bits.
  at::Tensor scales = {};   // float16, bfloat16 or float32, finite.
  // uint8, each < 2^bits (methods write 1 at least: format gptq v1 needs it), or floating like
  // scales.
  at::Tensor zeros = {};
  at::Tensor group_index = {};  // int32 [K], each < G.
  int axis = 1;
  InputQuantization input = {};

  int64_t outputs() const { return codes.size(0); }
  int64_t inputs() const { return codes.size(1); }
  int64_t groups() const { return scales.size(1); }  // Axis 1 only.
  bool ordered_groups() const;                       // Axis 0, or group_index is OrderedGroups.
  bool integer_zeros() const { return zeros.scalar_type() == at::kByte; }

  // The product is formed in float32 and then rounded once to `dtype`, so that every reader of the
  // same codes gets the same bits.
  absl::StatusOr<at::Tensor> Dequantize(at::ScalarType dtype) const;
  absl::Status Check() const;
  // All tensors there. Throws what libtorch throws.
  QuantizedLinear To(at::Device device) const;
};

// group_index of runs of `group` neighbouring columns: int32 [inputs].
at::Tensor OrderedGroups(int64_t inputs, int64_t group);

// Scales that are codes themselves (bitsandbytes' double quantization):
// absmax[i] = codebook[codes[i]] * absmax2[i / block_size] + offset.
struct QuantizedScales {
  at::Tensor codes;     // uint8 [blocks]
  at::Tensor codebook;  // float32 [256], rising.
  at::Tensor absmax;    // float32 [ceil(blocks / block_size)]
  float offset = 0;
  int64_t block_size = 256;
};

// Codes into a table of numbers: NF4, FP4. Blocks are runs of the flattened weight and may straddle
// rows: weight.flatten()[i] = codebook[codes.flatten()[i]] * absmax[i / block_size].
struct CodebookLinear {
  std::string type;                              // "nf4", "fp4"
  at::ScalarType compute_dtype = at::kBFloat16;  // In which readers multiply.
  int64_t block_size = 64;
  at::Tensor codes;     // uint8 [N, K], each < 16.
  at::Tensor codebook;  // float32 [16]
  at::Tensor absmax;    // float32 [ceil(N * K / block_size)]; undefined where `nested`.
  std::optional<QuantizedScales> nested;

  int64_t outputs() const { return codes.size(0); }
  int64_t inputs() const { return codes.size(1); }
  // absmax of every block, decoded: float32. Throws what libtorch throws.
  at::Tensor Scales() const;
  absl::StatusOr<at::Tensor> Dequantize(at::ScalarType dtype) const;
  absl::Status Check() const;
  // All tensors there. Throws what libtorch throws.
  CodebookLinear To(at::Device device) const;
};

// A layout of fixed-size blocks of bytes (GGUF); a row of it lives for ever.
struct BlockEncoding {
  absl::string_view name;  // "q4_0"
  int bits = 4;            // Of a code: LinearScheme::bits.
  int64_t block_weights = 32;
  int64_t block_bytes = 18;
  // `blocks` of them from `bytes` into `weights`; any bytes are allowed. Thread-safe.
  void (*decode)(const uint8_t* bytes, int64_t blocks, float* weights) = nullptr;
};

struct BlockLinear {
  const BlockEncoding* encoding = nullptr;
  at::Tensor bytes;  // uint8 [N, K / block_weights * block_bytes]

  int64_t outputs() const { return bytes.size(0); }
  int64_t inputs() const { return bytes.size(1) / encoding->block_bytes * encoding->block_weights; }
  absl::StatusOr<at::Tensor> Dequantize(at::ScalarType dtype) const;
  absl::Status Check() const;
};

using QuantizedWeight = std::variant<QuantizedLinear, CodebookLinear, BlockLinear>;

// The weight [N, K]: the same numbers on whatever device (one that KernelDevice gave) or, where a
// kind of codes is decoded on the CPU only, there. Thread-safe. ResourceExhausted when memory is
// short.
absl::StatusOr<at::Tensor> Dequantize(const QuantizedWeight& weight, at::ScalarType dtype,
                                      at::Device device = at::kCPU);
// Shapes, dtypes and ranges as above; InvalidArgument names the first thing that is wrong.
absl::Status Check(const QuantizedWeight& weight);
int64_t Outputs(const QuantizedWeight& weight);
int64_t Inputs(const QuantizedWeight& weight);
// What the layer's input is rounded to at run time.
InputQuantization InputOf(const QuantizedWeight& weight);
// The scheme that `weight` has, for Describe and Supports.
LinearScheme SchemeOf(absl::string_view module, const QuantizedWeight& weight);

}  // namespace quantd::engine
