// What the formats of packed int32 words share: reading a tensor with every check, and codes in and
// out of words along either side of a matrix.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/formats/format.h"

namespace quantd::engine {

constexpr int64_t kWordBits = 32;

// A view of the tensor `name`. InvalidArgument when it is of another type; NotFound.
absl::StatusOr<at::Tensor> ReadTensor(const TensorLookup& lookup, const std::string& name,
                                      DType dtype);
// Also for another shape.
absl::StatusOr<at::Tensor> ReadTensor(const TensorLookup& lookup, const std::string& name,
                                      DType dtype, absl::Span<const int64_t> shape);
// F16, BF16 or F32, of any shape.
absl::StatusOr<at::Tensor> ReadFloating(const TensorLookup& lookup, const std::string& name);

absl::Status WrongShape(absl::string_view name, const at::Tensor& tensor, absl::string_view wanted);

// Codes of `bits` bits (not above 8) are streams along dimension `dim` of a matrix, dense and
// lowest bits first (kernels/pack_bits.h). The words lie where the codes lay, or transposed.
struct WordLayout {
  int bits = 4;
  int dim = 1;
  bool transposed = false;
};

// 8-bit codes 0 ... 255 as the int8 numbers 128 below them, and back; new tensors on their device.
at::Tensor ToSigned(const at::Tensor& codes);
at::Tensor ToUnsigned(const at::Tensor& codes);

// `codes` uint8 [A, B], contiguous; its size along `dim` times bits is a multiple of 32.
at::Tensor PackWords(const at::Tensor& codes, const WordLayout& layout);
// The inverse: uint8 of `shape`, which the words must fit: [A, B] with B codes in B * bits / 32
// words (dim 1). `words` is contiguous int32.
at::Tensor UnpackWords(const at::Tensor& words, const WordLayout& layout,
                       absl::Span<const int64_t> shape);

// InvalidArgument unless `size` codes fill whole words; `side` ("input columns") is for the
// message.
absl::Status CheckWholeWords(absl::string_view format, const LinearScheme& scheme,
                             absl::string_view side, int64_t size);

// The module's name as a regular expression that matches nothing else.
std::string ExactPattern(absl::string_view module);

}  // namespace quantd::engine
