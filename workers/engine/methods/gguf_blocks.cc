// See gguf_blocks.h.
#include "workers/engine/methods/gguf_blocks.h"

#include "kernels/table.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

using kernels::GgufType;

// Blocks are independent, so each goes as a row of its own.
template <GgufType type>
void Decode(const uint8_t* bytes, int64_t blocks, float* weights) {
  constexpr kernels::GgufBlock kBlock = *kernels::FindGgufBlock(type);
  kernels::Active().backend->gguf_dequantize({.type = type,
                                              .blocks = bytes,
                                              .row_bytes = kBlock.bytes,
                                              .rows = blocks,
                                              .columns = kBlock.weights,
                                              .weight = weights,
                                              .weight_stride = kBlock.weights});
}

template <GgufType type>
BlockEncoding Encoding(int bits) {
  constexpr kernels::GgufBlock kBlock = *kernels::FindGgufBlock(type);
  return {absl::string_view(kBlock.name.data(), kBlock.name.size()), bits, kBlock.weights,
          kBlock.bytes, Decode<type>};
}

// What a row that is no multiple of the block goes to instead.
struct Narrower {
  absl::string_view type;
  absl::string_view instead;
};
constexpr Narrower kNarrower[] = {
    {"q2_k", "q4_0"}, {"q3_k", "q4_0"}, {"q4_k", "q5_0"}, {"q5_k", "q5_1"}, {"q6_k", "q8_0"}};

}  // namespace

absl::Span<const BlockEncoding> GgufEncodings() {
  static const auto& encodings = *new std::vector<BlockEncoding>{
      Encoding<GgufType::kF32>(32), Encoding<GgufType::kF16>(16), Encoding<GgufType::kBF16>(16),
      Encoding<GgufType::kQ8_0>(8), Encoding<GgufType::kQ5_1>(5), Encoding<GgufType::kQ5_0>(5),
      Encoding<GgufType::kQ4_1>(4), Encoding<GgufType::kQ4_0>(4), Encoding<GgufType::kQ6K>(6),
      Encoding<GgufType::kQ5K>(5),  Encoding<GgufType::kQ4K>(4),  Encoding<GgufType::kQ3K>(3),
      Encoding<GgufType::kQ2K>(2)};
  return encodings;
}

const BlockEncoding* FindGgufEncoding(absl::string_view name) {
  for (const BlockEncoding& encoding : GgufEncodings()) {
    if (encoding.name == name) return &encoding;
  }
  return nullptr;
}

GgufType GgufTypeOf(const BlockEncoding& encoding) {
  return kernels::FindGgufBlock(std::string_view(encoding.name.data(), encoding.name.size()))->type;
}

absl::string_view GgufTypeFor(absl::string_view name, int64_t inputs) {
  for (const Narrower& narrower : kNarrower) {
    if (narrower.type == name && inputs % kernels::kKWeights != 0) name = narrower.instead;
  }
  const BlockEncoding* encoding = FindGgufEncoding(name);
  return encoding != nullptr && inputs % encoding->block_weights == 0 ? name : "f16";
}

BlockLinear QuantizeToBlocks(const at::Tensor& weight, const BlockEncoding& encoding,
                             const at::Tensor& importance) {
  const int64_t row_bytes = weight.size(1) / encoding.block_weights * encoding.block_bytes;
  BlockLinear linear = {.encoding = &encoding,
                        .bytes = at::empty({weight.size(0), row_bytes}, at::kByte)};
  kernels::Active().backend->gguf_quantize(
      {.type = GgufTypeOf(encoding),
       .weight = weight.const_data_ptr<float>(),
       .weight_stride = weight.size(1),
       .rows = weight.size(0),
       .columns = weight.size(1),
       .importance = importance.defined() ? importance.const_data_ptr<float>() : nullptr,
       .blocks = linear.bytes.mutable_data_ptr<uint8_t>(),
       .row_bytes = row_bytes});
  return linear;
}

}  // namespace quantd::engine
