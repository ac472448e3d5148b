// Linears that are blocks already are stored as they are; of any other method the decoded weights
// are, in 16 bits.
#include "workers/engine/formats/gguf_format.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/gguf_model.h"
#include "workers/engine/methods/gguf_blocks.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/models/weights.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

constexpr absl::string_view kDecodedType = "f16";

std::string BlocksName(absl::string_view module, absl::string_view type) {
  return absl::StrCat(module, ".", kGgufBlocksKind, type);
}

class GgufFormatImpl : public Format {
 public:
  const FormatInfo& Info() const override {
    static const auto& info = *new FormatInfo{
        .name = "gguf",
        .summary = "GGUF version 3: one file with block types, tokenizer and configuration",
        .loaders = {"llama.cpp", "ollama", "transformers", "vllm"}};
    return info;
  }

  absl::Status Supports(const LinearScheme& scheme) const override {
    if (scheme.input != InputKind::kFloat) {
      return absl::InvalidArgumentError(
          absl::StrCat(scheme.module, ": format gguf does not say how a layer's input is rounded (",
                       InputKindName(scheme.input), "); use compressed-tensors or bitsandbytes"));
    }
    const absl::string_view type = TypeOf(scheme);
    const BlockEncoding* encoding = FindGgufEncoding(type);
    if (encoding == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(scheme.module, ": format gguf has no block type '", type, "'"));
    }
    if (scheme.inputs % encoding->block_weights == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        scheme.module, ".weight has ", scheme.inputs, " input columns, no multiple of the ",
        encoding->block_weights, " weights that a block of ", type, " holds"));
  }

  std::vector<TensorInfo> Describe(const LinearScheme& scheme) const override {
    const BlockEncoding* encoding = FindGgufEncoding(TypeOf(scheme));
    if (encoding == nullptr) return {};
    return {Described(scheme.module, *encoding, scheme.outputs, scheme.inputs)};
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                const QuantizedWeight& linear) const override {
    QD_RETURN_IF_ERROR(Check(linear), module);
    QD_ASSIGN_OR_RETURN(const BlockLinear blocks, AsBlocks(linear));
    return std::vector<NamedTensor>{{BlocksName(module, blocks.encoding->name), blocks.bytes}};
  }

  absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                         absl::string_view module,
                                         const TensorLookup& lookup) const override {
    for (const BlockEncoding& encoding : GgufEncodings()) {
      const std::string name = BlocksName(module, encoding.name);
      const absl::StatusOr<TensorView> view = lookup(name);
      if (absl::IsNotFound(view.status())) continue;
      QD_RETURN_IF_ERROR(view.status());
      QD_ASSIGN_OR_RETURN(const at::Tensor stored, ViewTensor(*view));
      BlockLinear linear = {.encoding = &encoding, .bytes = stored};
      QD_RETURN_IF_ERROR(linear.Check(), name);
      return linear;
    }
    return absl::NotFoundError(absl::StrCat(module, " has no rows of blocks"));
  }

  nlohmann::json Configuration(const ConfigRequest& request) const override {
    return {{"quant_method", "gguf"}, {"method", request.method}, {"options", request.options}};
  }

  bool Recognizes(const nlohmann::json& configuration) const override {
    const auto method = configuration.find("quant_method");
    return method != configuration.end() && *method == "gguf";
  }

  absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const override {
    return OpenGgufWeights(std::move(checkpoint));
  }

  absl::StatusOr<WrittenModel> WriteModel(ModelReader& model,
                                          const std::string& folder) const override {
    return WriteGguf(model, folder);
  }

  // Matrices lie in blocks, if only of one number.
  absl::StatusOr<TensorInfo> DescribeDense(const Checkpoint& checkpoint,
                                           const ExpectedTensor& tensor) const override {
    if (tensor.shape.size() != 2) return Format::DescribeDense(checkpoint, tensor);
    absl::string_view module = tensor.name;
    absl::ConsumeSuffix(&module, ".weight");
    for (const BlockEncoding& encoding : GgufEncodings()) {
      TensorInfo info = Described(module, encoding, tensor.shape[0], tensor.shape[1]);
      if (checkpoint.Has(info.name)) return info;
    }
    return checkpoint.Find(tensor.name).status();
  }

 private:
  static absl::StatusOr<BlockLinear> AsBlocks(const QuantizedWeight& linear) {
    if (const auto* blocks = std::get_if<BlockLinear>(&linear)) return *blocks;
    QD_ASSIGN_OR_RETURN(const at::Tensor weight, Dequantize(linear, at::kFloat));
    return TorchCall("rounding to 16 bits", [&] {
      const at::Tensor bytes = weight.to(at::kHalf).contiguous().view(at::kByte);
      return BlockLinear{.encoding = FindGgufEncoding(kDecodedType), .bytes = bytes};
    });
  }

  static absl::string_view TypeOf(const LinearScheme& scheme) {
    return scheme.encoding == Encoding::kBlocks ? absl::string_view(scheme.type) : kDecodedType;
  }

  static TensorInfo Described(absl::string_view module, const BlockEncoding& encoding,
                              int64_t outputs, int64_t inputs) {
    return {BlocksName(module, encoding.name),
            DType::kU8,
            {outputs, inputs / encoding.block_weights * encoding.block_bytes}};
  }
};

}  // namespace

const Format* GgufFormat() {
  static const GgufFormatImpl format;
  return &format;
}

}  // namespace quantd::engine
