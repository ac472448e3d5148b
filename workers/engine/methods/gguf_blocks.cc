// See gguf_blocks.h.
#include "workers/engine/methods/gguf_blocks.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
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
BlockEncoding MakeEncoding(int bits) {
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
      MakeEncoding<GgufType::kF32>(32),  MakeEncoding<GgufType::kF16>(16),
      MakeEncoding<GgufType::kBF16>(16), MakeEncoding<GgufType::kQ8_0>(8),
      MakeEncoding<GgufType::kQ5_1>(5),  MakeEncoding<GgufType::kQ5_0>(5),
      MakeEncoding<GgufType::kQ4_1>(4),  MakeEncoding<GgufType::kQ4_0>(4),
      MakeEncoding<GgufType::kQ6K>(6),   MakeEncoding<GgufType::kQ5K>(5),
      MakeEncoding<GgufType::kQ4K>(4),   MakeEncoding<GgufType::kQ3K>(3),
      MakeEncoding<GgufType::kQ2K>(2)};
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

LinearScheme BlockScheme(absl::string_view name, int64_t outputs, int64_t inputs,
                         absl::string_view type) {
  const BlockEncoding& encoding = *FindGgufEncoding(GgufTypeFor(type, inputs));
  return {.module = std::string(name),
          .outputs = outputs,
          .inputs = inputs,
          .bits = encoding.bits,
          .group_size = encoding.block_weights,
          .encoding = Encoding::kBlocks,
          .type = std::string(encoding.name)};
}

absl::StatusOr<LinearResult> QuantizeBlocks(const std::string& name, const at::Tensor& weight,
                                            absl::string_view type, const at::Tensor& importance) {
  const BlockEncoding& encoding = *FindGgufEncoding(GgufTypeFor(type, weight.size(1)));
  LinearResult result;
  if (encoding.name != type) {
    result.fallbacks.push_back({"type", name,
                                absl::StrCat(weight.size(1), " input columns are no multiple of ",
                                             type, "'s block; stored as ", encoding.name)});
  }
  BlockLinear linear = QuantizeToBlocks(weight, encoding, importance);
  QD_ASSIGN_OR_RETURN(const at::Tensor decoded, linear.Dequantize(at::kFloat));
  at::Tensor error = (decoded - weight).square();
  if (importance.defined()) error = error * importance;
  result.loss = error.sum(at::kDouble).item<double>() / 2;
  result.linear = std::move(linear);
  return result;
}

}  // namespace quantd::engine
