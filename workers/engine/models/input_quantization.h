// What is done to a linear layer's input at run time: a rotation, and rounding to 8 or 4 bits,
// computed in floating point so that the decoder, the evaluation and a reader of the written files
// all see the same numbers.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/strings/string_view.h"

namespace quantd::engine {

enum class InputKind {
  kFloat,          // Not rounded.
  kInt8PerToken,   // Scale max|x| / 127 of each token, found at run time.
  kInt8PerTensor,  // One scale, found in calibration.
  kInt4PerToken,   // Scale max|x| / 7 of each token, found at run time.
  // LLM.int8 (Dettmers, Lewis, Belkada, Zettlemoyer, 2022): columns that hold a value above the
  // threshold stay as they are, the rest is rounded per token.
  kLlmInt8,
};

struct InputQuantization {
  InputKind kind = InputKind::kFloat;
  float scale = 0;               // kInt8PerTensor only; above 0.
  double outlier_threshold = 0;  // kLlmInt8 only; 0: no column is an outlier.
  // Order of the Hadamard blocks (models/online_rotation.h) that turn the input before it is
  // rounded; the weight is turned already. 0: none.
  int64_t rotation = 0;

  bool operator==(const InputQuantization&) const = default;
  // What every token is divided by; 0: each token has its own.
  float fixed_scale() const { return kind == InputKind::kInt8PerTensor ? scale : 0; }
};

// An input as the products of int8 read it (kernels/gemm_w8a8.h).
struct Int8Input {
  at::Tensor codes;   // int8 [..., K], or undefined.
  at::Tensor scales;  // float32, one a token.

  // Room for the int8 form of values like these.
  static Int8Input Like(const at::Tensor& values);
};

// "float", "int8_token", "int8_tensor", "int4_token", "llm_int8".
absl::string_view InputKindName(InputKind kind);

// `input` [..., K], rotated already, after rounding and decoding, in its own dtype; itself for
// kFloat. Throws what libtorch throws.
at::Tensor RoundInput(const at::Tensor& input, const InputQuantization& quantization);
// The same as int8, by kernels/quantize_rows.h: kInt8PerToken or kInt8PerTensor, 16 bits on a GPU
// that has kernels, K a multiple of 8. Throws what libtorch throws.
Int8Input QuantizeInput(const at::Tensor& input, const InputQuantization& quantization);

}  // namespace quantd::engine
