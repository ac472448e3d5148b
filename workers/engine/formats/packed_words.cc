// One strided kernel packs along either side; nothing here trusts a tensor from a file.
#include "workers/engine/formats/packed_words.h"

#include <ATen/ops/bitwise_xor.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "kernels/table.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

template <typename Streams, typename Codes, typename Words>
Streams MakeStreams(const WordLayout& layout, const at::Tensor& codes, const at::Tensor& words,
                    Codes* code_data, Words* word_data) {
  const int dim = layout.dim;
  const int word_dim = layout.transposed ? 1 - dim : dim;
  return {.runs = codes.size(1 - dim),
          .codes_per_run = codes.size(dim),
          .bits = layout.bits,
          .codes = code_data,
          .run_stride = codes.stride(1 - dim),
          .code_stride = codes.stride(dim),
          .words = word_data,
          .words_run_stride = words.stride(1 - word_dim),
          .word_stride = words.stride(word_dim)};
}

}  // namespace

absl::StatusOr<at::Tensor> ReadTensor(const TensorLookup& lookup, const std::string& name,
                                      DType dtype) {
  QD_ASSIGN_OR_RETURN(const TensorView view, lookup(name));
  if (view.dtype != dtype) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", DTypeName(view.dtype), " instead of ", DTypeName(dtype)));
  }
  return ViewTensor(view);
}

absl::StatusOr<at::Tensor> ReadTensor(const TensorLookup& lookup, const std::string& name,
                                      DType dtype, absl::Span<const int64_t> shape) {
  QD_ASSIGN_OR_RETURN(const at::Tensor tensor, ReadTensor(lookup, name, dtype));
  const auto sizes = tensor.sizes();
  if (absl::MakeConstSpan(sizes.data(), sizes.size()) != shape) {
    return WrongShape(name, tensor, ShapeText(shape));
  }
  return tensor;
}

absl::StatusOr<at::Tensor> ReadFloating(const TensorLookup& lookup, const std::string& name) {
  QD_ASSIGN_OR_RETURN(const TensorView view, lookup(name));
  if (view.dtype != DType::kF16 && view.dtype != DType::kBF16 && view.dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " is ", DTypeName(view.dtype), " instead of F16, BF16 or F32"));
  }
  return ViewTensor(view);
}

absl::Status WrongShape(absl::string_view name, const at::Tensor& tensor,
                        absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has shape ", ShapeText(tensor.sizes().vec()), " instead of ", wanted));
}

// The highest bit turned over, in one pass.
at::Tensor ToSigned(const at::Tensor& codes) { return codes.bitwise_xor(128).view(at::kChar); }
at::Tensor ToUnsigned(const at::Tensor& codes) { return codes.view(at::kByte).bitwise_xor(128); }

at::Tensor PackWords(const at::Tensor& codes, const WordLayout& layout) {
  std::vector<int64_t> shape = codes.sizes().vec();
  shape[layout.dim] = shape[layout.dim] * layout.bits / kWordBits;
  if (layout.transposed) std::swap(shape[0], shape[1]);
  const at::Tensor words = at::empty(shape, at::kInt);
  kernels::Active().backend->pack_bits(MakeStreams<kernels::PackBits>(
      layout, codes, words, codes.const_data_ptr<uint8_t>(),
      reinterpret_cast<uint32_t*>(words.mutable_data_ptr<int32_t>())));
  return words;
}

at::Tensor UnpackWords(const at::Tensor& words, const WordLayout& layout,
                       absl::Span<const int64_t> shape) {
  const at::Tensor codes = at::empty({shape[0], shape[1]}, at::kByte);
  kernels::Active().backend->unpack_bits(MakeStreams<kernels::UnpackBits>(
      layout, codes, words, codes.mutable_data_ptr<uint8_t>(),
      reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>())));
  return codes;
}

absl::Status CheckWholeWords(absl::string_view format, const LinearScheme& scheme,
                             absl::string_view side, int64_t size) {
  if (size * scheme.bits % kWordBits == 0) return absl::OkStatus();
  const int64_t step = scheme.bits == 3 ? kWordBits : kWordBits / scheme.bits;
  return absl::InvalidArgumentError(
      absl::StrCat(scheme.module, ".weight has ", size, " ", side, ", but format ", format,
                   " packs ", scheme.bits, "-bit codes in int32 words and needs a multiple of ",
                   step, "; use other bits or skip the module"));
}

std::string ExactPattern(absl::string_view module) {
  return absl::StrCat("^", absl::StrReplaceAll(module, {{".", "\\."}}), "$");
}

}  // namespace quantd::engine
