// GPTQ on disk. For a linear P with weight [N, K], instead of P.weight:
//
//   P.qweight int32 [K * bits / 32, N]  codes, along K      P.g_idx  int32 [K]  group of each
//   column P.qzeros  int32 [G, N * bits / 32]  zeros, along N      P.scales float16 [G, N]
//
// Packing is kernels/pack_bits.h's dense stream. Version 1 stores zeros minus one, which every
// loader takes; it holds no zero of 0, because loaders disagree about how a stored -1 wraps.
// Version 2 stores them as they are. Trusts nothing it reads.
#include "workers/engine/formats/gptq_format.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/formats/gptq_config.h"
#include "workers/engine/formats/module_weights.h"
#include "workers/engine/formats/packed_words.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// qweight: codes [N, K] along K, the words of a row in a column. qzeros: zeros [N, G] along N, the
// words of a column in a row.
enum Side { kOutputs = 0, kInputs = 1 };

WordLayout Along(int bits, Side side) { return {.bits = bits, .dim = side, .transposed = true}; }

// scales [G, N] in float16; other floating types are converted where nothing overflows.
absl::StatusOr<at::Tensor> ReadScales(const TensorLookup& lookup, const std::string& name) {
  QD_ASSIGN_OR_RETURN(const at::Tensor scales, ReadFloating(lookup, name));
  if (scales.dim() != 2 || scales.numel() == 0)
    return WrongShape(name, scales, "[groups, outputs]");
  return scales.to(at::kHalf);
}

// Columns' groups; a file without g_idx has them as they lie.
absl::StatusOr<at::Tensor> ReadGroupIndex(const TensorLookup& lookup, const std::string& name,
                                          int64_t inputs, int64_t group_size) {
  absl::StatusOr<at::Tensor> stored = ReadTensor(lookup, name, DType::kI32);
  if (!stored.ok() && stored.status().code() == absl::StatusCode::kNotFound) {
    return OrderedGroups(inputs, group_size == -1 ? inputs : group_size);
  }
  QD_RETURN_IF_ERROR(stored.status());
  if (stored->dim() != 1 || stored->size(0) != inputs) {
    return WrongShape(name, *stored, absl::StrCat("[", inputs, "]"));
  }
  return stored->clone();
}

absl::StatusOr<QuantizedLinear> UnpackModule(const GptqModule& scheme, absl::string_view module,
                                             const TensorLookup& lookup) {
  const std::string prefix = absl::StrCat(module, ".");
  QD_ASSIGN_OR_RETURN(const at::Tensor qweight,
                      ReadTensor(lookup, prefix + "qweight", DType::kI32));
  QD_ASSIGN_OR_RETURN(const at::Tensor qzeros, ReadTensor(lookup, prefix + "qzeros", DType::kI32));
  QD_ASSIGN_OR_RETURN(const at::Tensor scales, ReadScales(lookup, prefix + "scales"));
  if (qweight.dim() != 2 || qweight.numel() == 0 ||
      qweight.size(0) * kWordBits % scheme.bits != 0) {
    return WrongShape(prefix + "qweight", qweight,
                      absl::StrCat("[inputs * ", scheme.bits, " / 32, outputs]"));
  }
  const int64_t outputs = qweight.size(1);
  const int64_t inputs = qweight.size(0) * kWordBits / scheme.bits;
  const int64_t groups = scales.size(0);
  if (scales.size(1) != outputs) {
    return WrongShape(prefix + "scales", scales, absl::StrCat("[groups, ", outputs, "]"));
  }
  if (outputs * scheme.bits % kWordBits != 0 || qzeros.dim() != 2 || qzeros.size(0) != groups ||
      qzeros.size(1) != outputs * scheme.bits / kWordBits) {
    return WrongShape(prefix + "qzeros", qzeros,
                      absl::StrCat("[", groups, ", ", outputs, " * ", scheme.bits, " / 32]"));
  }
  QuantizedLinear linear = {.bits = scheme.bits,
                            .group_size = scheme.group_size,
                            .symmetric = scheme.symmetric,
                            .scales = scales.t().contiguous()};
  QD_ASSIGN_OR_RETURN(linear.group_index,
                      ReadGroupIndex(lookup, prefix + "g_idx", inputs, scheme.group_size));
  linear.codes = UnpackWords(qweight, Along(scheme.bits, kInputs), {outputs, inputs});
  linear.zeros = UnpackWords(qzeros, Along(scheme.bits, kOutputs), {outputs, groups});
  if (scheme.zeros_minus_one) {
    linear.zeros.add_(1).bitwise_and_((1 << scheme.bits) - 1);  // A stored -1 stands for 0.
  }
  QD_RETURN_IF_ERROR(linear.Check(), module);
  return linear;
}

class GptqFormatImpl : public Format {
 public:
  GptqFormatImpl(FormatInfo info, bool zeros_minus_one)
      : info_(std::move(info)), zeros_minus_one_(zeros_minus_one) {}
  const FormatInfo& Info() const override { return info_; }

  absl::Status Supports(const LinearScheme& scheme) const override {
    const bool packs = scheme.bits == 2 || scheme.bits == 3 || scheme.bits == 4 || scheme.bits == 8;
    if (scheme.encoding != Encoding::kAffine || scheme.axis != 1 || !scheme.integer_zeros ||
        scheme.input != InputKind::kFloat || !packs) {
      return absl::InvalidArgumentError(
          absl::StrCat(scheme.module, ": format ", info_.name,
                       " holds 2-, 3-, 4- or 8-bit codes with whole zero points in "
                       "groups along the inputs, and full-precision inputs; not ",
                       SchemeToJson(scheme).dump()));
    }
    QD_RETURN_IF_ERROR(CheckWholeWords(info_.name, scheme, "input columns", scheme.inputs));
    return CheckWholeWords(info_.name, scheme, "output rows", scheme.outputs);
  }

  std::vector<TensorInfo> Describe(const LinearScheme& scheme) const override {
    const int64_t group = scheme.group_size == -1 ? scheme.inputs : scheme.group_size;
    const int64_t groups = scheme.inputs / group;
    return {
        {scheme.module + ".qweight",
         DType::kI32,
         {scheme.inputs * scheme.bits / kWordBits, scheme.outputs}},
        {scheme.module + ".qzeros",
         DType::kI32,
         {groups, scheme.outputs * scheme.bits / kWordBits}},
        {scheme.module + ".scales", DType::kF16, {groups, scheme.outputs}},
        {scheme.module + ".g_idx", DType::kI32, {scheme.inputs}},
    };
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                const QuantizedWeight& weight) const override {
    return TorchCall(
        absl::StrCat("packing ", module), [&]() -> absl::StatusOr<std::vector<NamedTensor>> {
          QD_RETURN_IF_ERROR(Check(weight), module);
          QD_RETURN_IF_ERROR(Supports(SchemeOf(module, weight)));
          const auto& linear = std::get<QuantizedLinear>(weight);
          if (zeros_minus_one_ && linear.zeros.min().item<int64_t>() < 1) {
            return absl::InvalidArgumentError(absl::StrCat(
                module, ": a zero point of 0 cannot be written in format gptq; use gptq_v2"));
          }
          const at::Tensor zeros = zeros_minus_one_ ? linear.zeros - 1 : linear.zeros;
          const std::string prefix = absl::StrCat(module, ".");
          return std::vector<NamedTensor>{
              {prefix + "qweight", PackWords(linear.codes, Along(linear.bits, kInputs))},
              {prefix + "qzeros", PackWords(zeros, Along(linear.bits, kOutputs))},
              {prefix + "scales", linear.scales.t().to(at::kHalf).contiguous()},
              {prefix + "g_idx", linear.group_index}};
        });
  }

  absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                         absl::string_view module,
                                         const TensorLookup& lookup) const override {
    QD_ASSIGN_OR_RETURN(const GptqModule scheme, ReadGptqConfiguration(configuration, module));
    return TorchCall(absl::StrCat("unpacking ", module), [&]() -> absl::StatusOr<QuantizedWeight> {
      return UnpackModule(scheme, module, lookup);
    });
  }

  nlohmann::json Configuration(const ConfigRequest& request) const override {
    nlohmann::json configuration = GptqConfiguration(request);
    configuration["checkpoint_format"] = info_.name;
    configuration["format"] = info_.name;
    return configuration;
  }

  bool Recognizes(const nlohmann::json& configuration) const override {
    return configuration.value("quant_method", nlohmann::json()) == "gptq" &&
           IsGptqV2(configuration) == !zeros_minus_one_;
  }

  absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const override {
    const nlohmann::json& configuration = checkpoint->raw_config().at("quantization_config");
    QD_RETURN_IF_ERROR(ReadGptqConfiguration(configuration, "").status(), checkpoint->folder(),
                       "/config.json");
    return OpenModuleWeights(
        *this,
        {.markers = {"qweight"},
         .tensors = {"qweight", "qzeros", "scales", "g_idx"},
         .shape = [](const StoredModule& module) -> absl::StatusOr<std::vector<int64_t>> {
           QD_ASSIGN_OR_RETURN(const GptqModule scheme,
                               ReadGptqConfiguration(module.configuration, module.module));
           QD_ASSIGN_OR_RETURN(const std::vector<int64_t> words, MatrixShape(module, "qweight"));
           return std::vector<int64_t>{words[1], words[0] * kWordBits / scheme.bits};
         }},
        std::move(checkpoint));
  }

 private:
  const FormatInfo info_;
  const bool zeros_minus_one_;
};

}  // namespace

const Format* GptqFormat() {
  static const GptqFormatImpl format(
      {.name = "gptq",
       .summary = "GPTQ version 1: 2, 3, 4 or 8 bits in int32 words, float16 scales",
       .loaders = {"transformers", "vllm", "sglang", "gptqmodel"},
       .config_file = "quantize_config.json"},
      /*zeros_minus_one=*/true);
  return &format;
}

const Format* GptqV2Format() {
  static const GptqFormatImpl format(
      {.name = "gptq_v2",
       .summary = "GPTQ version 2: zero points as they are, 0 too; fewer loaders",
       .loaders = {"gptqmodel", "transformers", "vllm"},
       .config_file = "quantize_config.json"},
      /*zeros_minus_one=*/false);
  return &format;
}

}  // namespace quantd::engine
