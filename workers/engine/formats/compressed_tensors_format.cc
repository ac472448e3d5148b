// compressed-tensors on disk. For a linear P with weight [N, K] and G groups, instead of P.weight:
//
//   pack-quantized (4 or 8 bits, inputs as they are or rounded per token):  P.weight_packed int32
//   [N, K * bits / 32]  codes, along K
//     P.weight_scale floating [N, G]        P.weight_shape int64 [2] = N, K
//     P.weight_zero_point int32 [N * bits / 32, G]  along N, only where asymmetric
//   int-quantized (8 bits, 8-bit inputs):  P.weight int8 [N, K]    P.weight_scale [N, 1]
//     P.input_scale [1], only where the inputs' scale is fixed
//
// Its codes are signed and stored plus 2^(bits - 1), which makes them this engine's unsigned ones.
// Only widths that every version of the library packs alike are written. Trusts nothing it reads.
#include "workers/engine/formats/compressed_tensors_format.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/formats/compressed_tensors_config.h"
#include "workers/engine/formats/module_weights.h"
#include "workers/engine/formats/packed_words.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// [N, K] of a packed module.
absl::StatusOr<std::vector<int64_t>> ReadShape(const TensorLookup& lookup,
                                               const std::string& name) {
  QD_ASSIGN_OR_RETURN(const at::Tensor tensor, ReadTensor(lookup, name, DType::kI64, {2}));
  const std::vector<int64_t> shape = {tensor[0].item<int64_t>(), tensor[1].item<int64_t>()};
  constexpr int64_t kSideMax = int64_t{1} << 31;
  for (const int64_t side : shape) {
    if (side < 1 || side > kSideMax) {
      return absl::InvalidArgumentError(absl::StrCat(name, " says ", ShapeText(shape)));
    }
  }
  return shape;
}

// [N, G], whatever way one scale for all was written.
absl::StatusOr<at::Tensor> ReadScales(const CompressedModule& module, const TensorLookup& lookup,
                                      const std::string& name, int64_t outputs, int64_t groups) {
  QD_ASSIGN_OR_RETURN(const at::Tensor scales, ReadFloating(lookup, name));
  if (module.whole_matrix && scales.numel() == 1) {
    return scales.reshape({1, 1}).expand({outputs, 1}).contiguous();
  }
  if (scales.sizes().vec() != std::vector<int64_t>{outputs, groups}) {
    return WrongShape(name, scales, absl::StrCat("[", outputs, ", ", groups, "]"));
  }
  return scales.clone();
}

absl::StatusOr<at::Tensor> ReadZeros(const CompressedModule& module, const TensorLookup& lookup,
                                     const std::string& name, int64_t outputs, int64_t groups) {
  if (module.symmetric) return at::full({outputs, groups}, 1 << (module.bits - 1), at::kByte);
  const int64_t words = (outputs * module.bits + kWordBits - 1) / kWordBits;
  QD_ASSIGN_OR_RETURN(const at::Tensor packed,
                      ReadTensor(lookup, name, DType::kI32, {words, groups}));
  return UnpackWords(packed, {.bits = module.bits, .dim = 0},
                     {words * kWordBits / module.bits, groups})
      .narrow(0, 0, outputs)
      .contiguous();
}

// Old files with activation order have it; newer ones fill it with -1.
absl::StatusOr<at::Tensor> ReadGroupIndex(const TensorLookup& lookup, const std::string& name,
                                          int64_t inputs, int64_t group) {
  const auto stored = ReadTensor(lookup, name, DType::kI32, {inputs});
  if (absl::IsNotFound(stored.status())) return OrderedGroups(inputs, group);
  QD_RETURN_IF_ERROR(stored.status());
  if ((*stored == -1).all().item<bool>()) return OrderedGroups(inputs, group);
  return stored->clone();
}

absl::StatusOr<QuantizedLinear> UnpackPacked(const CompressedModule& module,
                                             const std::string& prefix,
                                             const TensorLookup& lookup) {
  QD_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, ReadShape(lookup, prefix + "weight_shape"));
  const int64_t outputs = shape[0];
  const int64_t inputs = shape[1];
  const int64_t group = module.group_size == -1 ? inputs : module.group_size;
  if (inputs % group != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        prefix, "weight has ", inputs, " inputs, which group_size ", group, " does not divide"));
  }
  const int64_t words = (inputs * module.bits + kWordBits - 1) / kWordBits;
  QD_ASSIGN_OR_RETURN(const at::Tensor packed,
                      ReadTensor(lookup, prefix + "weight_packed", DType::kI32, {outputs, words}));
  QuantizedLinear linear = {
      .bits = module.bits, .group_size = module.group_size, .symmetric = module.symmetric};
  linear.codes =
      UnpackWords(packed, {.bits = module.bits}, {outputs, words * kWordBits / module.bits})
          .narrow(1, 0, inputs)
          .contiguous();
  const int64_t groups = inputs / group;
  QD_ASSIGN_OR_RETURN(linear.scales,
                      ReadScales(module, lookup, prefix + "weight_scale", outputs, groups));
  QD_ASSIGN_OR_RETURN(linear.zeros,
                      ReadZeros(module, lookup, prefix + "weight_zero_point", outputs, groups));
  QD_ASSIGN_OR_RETURN(linear.group_index,
                      ReadGroupIndex(lookup, prefix + "weight_g_idx", inputs, group));
  linear.input.kind = module.input;
  QD_RETURN_IF_ERROR(linear.Check(), prefix, "weight");
  return linear;
}

absl::StatusOr<InputQuantization> ReadInput(InputKind kind, const std::string& prefix,
                                            const TensorLookup& lookup) {
  InputQuantization input = {.kind = kind};
  if (kind != InputKind::kInt8PerTensor) return input;
  const std::string name = prefix + "input_scale";
  QD_ASSIGN_OR_RETURN(const at::Tensor scale, ReadFloating(lookup, name));
  if (scale.numel() != 1) return WrongShape(name, scale, "[1]");
  input.scale = scale.item<float>();
  if (input.scale > 0 && std::isfinite(input.scale)) return input;
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", input.scale, ", not above 0"));
}

absl::StatusOr<QuantizedLinear> UnpackInt(const CompressedModule& module, const std::string& prefix,
                                          const TensorLookup& lookup) {
  QD_ASSIGN_OR_RETURN(const at::Tensor codes, ReadTensor(lookup, prefix + "weight", DType::kI8));
  if (codes.dim() != 2 || codes.numel() == 0) {
    return WrongShape(prefix + "weight", codes, "[outputs, inputs]");
  }
  if (module.bits != 8 || module.group_size != -1 || !module.symmetric) {
    return absl::InvalidArgumentError(
        absl::StrCat(prefix, "weight is int8, but the configuration says ", module.bits, " bits, ",
                     module.symmetric ? "symmetric" : "asymmetric", ", group size ",
                     module.group_size, "; 8, symmetric and a scale a row can be read"));
  }
  QuantizedLinear linear = {.bits = 8,
                            .codes = ToUnsigned(codes),
                            .zeros = at::full({codes.size(0), 1}, 128, at::kByte),
                            .group_index = at::zeros({codes.size(1)}, at::kInt)};
  QD_ASSIGN_OR_RETURN(linear.scales,
                      ReadScales(module, lookup, prefix + "weight_scale", codes.size(0), 1));
  QD_ASSIGN_OR_RETURN(linear.input, ReadInput(module.input, prefix, lookup));
  QD_RETURN_IF_ERROR(linear.Check(), prefix, "weight");
  return linear;
}

std::vector<NamedTensor> PackPacked(const std::string& prefix, const QuantizedLinear& linear) {
  std::vector<NamedTensor> tensors = {
      {prefix + "weight_packed", PackWords(linear.codes, {.bits = linear.bits})},
      {prefix + "weight_scale", linear.scales.to(at::kHalf)},
      {prefix + "weight_shape", at::stack({at::full({}, linear.outputs(), at::kLong),
                                           at::full({}, linear.inputs(), at::kLong)})}};
  if (!linear.symmetric) {
    tensors.push_back(
        {prefix + "weight_zero_point", PackWords(linear.zeros, {.bits = linear.bits, .dim = 0})});
  }
  return tensors;
}

std::vector<NamedTensor> PackInt(const std::string& prefix, const QuantizedLinear& linear) {
  std::vector<NamedTensor> tensors = {{prefix + "weight", ToSigned(linear.codes)},
                                      {prefix + "weight_scale", linear.scales.to(at::kFloat)}};
  if (linear.input.kind == InputKind::kInt8PerTensor) {
    tensors.push_back({prefix + "input_scale", at::full({1}, linear.input.scale, at::kFloat)});
  }
  return tensors;
}

class CompressedTensorsFormatImpl : public Format {
 public:
  const FormatInfo& Info() const override {
    static const auto& info = *new FormatInfo{
        .name = "compressed-tensors",
        .summary = "llm-compressor's: packed 4 or 8 bits, or 8-bit weights with 8-bit inputs",
        .loaders = {"vllm", "sglang", "transformers (symmetric only)"},
        .transforms = true};
    return info;
  }

  absl::Status Supports(const LinearScheme& scheme) const override {
    const bool bytes = StoredAsBytes(scheme.bits, scheme.input);
    const bool packed =
        !bytes && (scheme.bits == 4 || scheme.bits == 8) &&
        (scheme.input == InputKind::kFloat || scheme.input == InputKind::kInt8PerToken ||
         scheme.input == InputKind::kInt4PerToken);
    const bool rows = bytes && scheme.group_size == -1 && scheme.symmetric;
    if (scheme.encoding != Encoding::kAffine || scheme.axis != 1 || !scheme.integer_zeros ||
        !scheme.ordered_groups || (!packed && !rows)) {
      return absl::InvalidArgumentError(absl::StrCat(
          scheme.module,
          ": format compressed-tensors holds 4- or 8-bit codes with whole zero points, in groups "
          "of inputs that lie side by side, with inputs as they are or rounded per token, or "
          "symmetric 8-bit rows with 8-bit inputs; not ",
          SchemeToJson(scheme).dump(), "; format gptq holds other widths and orders"));
    }
    if (!packed) return absl::OkStatus();
    QD_RETURN_IF_ERROR(
        CheckWholeWords("compressed-tensors", scheme, "input columns", scheme.inputs));
    if (scheme.symmetric) return absl::OkStatus();
    return CheckWholeWords("compressed-tensors", scheme, "output rows", scheme.outputs);
  }

  std::vector<TensorInfo> Describe(const LinearScheme& scheme) const override {
    const std::string prefix = scheme.module + ".";
    const int64_t n = scheme.outputs;
    const int64_t k = scheme.inputs;
    std::vector<TensorInfo> tensors;
    if (StoredAsBytes(scheme.bits, scheme.input)) {
      tensors = {{prefix + "weight", DType::kI8, {n, k}},
                 {prefix + "weight_scale", DType::kF32, {n, 1}}};
      if (scheme.input == InputKind::kInt8PerTensor) {
        tensors.push_back({prefix + "input_scale", DType::kF32, {1}});
      }
      return tensors;
    }
    const int64_t groups = scheme.group_size == -1 ? 1 : k / scheme.group_size;
    tensors = {{prefix + "weight_packed", DType::kI32, {n, k * scheme.bits / kWordBits}},
               {prefix + "weight_scale", DType::kF16, {n, groups}},
               {prefix + "weight_shape", DType::kI64, {2}}};
    if (!scheme.symmetric) {
      tensors.push_back(
          {prefix + "weight_zero_point", DType::kI32, {n * scheme.bits / kWordBits, groups}});
    }
    return tensors;
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                const QuantizedWeight& weight) const override {
    return TorchCall(
        absl::StrCat("packing ", module), [&]() -> absl::StatusOr<std::vector<NamedTensor>> {
          QD_RETURN_IF_ERROR(Check(weight), module);
          QD_RETURN_IF_ERROR(Supports(SchemeOf(module, weight)));
          const auto& linear = std::get<QuantizedLinear>(weight);
          const std::string prefix = absl::StrCat(module, ".");
          return StoredAsBytes(linear.bits, linear.input.kind) ? PackInt(prefix, linear)
                                                               : PackPacked(prefix, linear);
        });
  }

  absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                         absl::string_view module,
                                         const TensorLookup& lookup) const override {
    QD_ASSIGN_OR_RETURN(const CompressedModule stored,
                        ReadCompressedTensorsConfiguration(configuration, module));
    const std::string prefix = absl::StrCat(module, ".");
    return TorchCall(absl::StrCat("unpacking ", module), [&]() -> absl::StatusOr<QuantizedWeight> {
      const bool packed = lookup(prefix + "weight_packed").ok();
      QD_ASSIGN_OR_RETURN(QuantizedLinear linear, packed ? UnpackPacked(stored, prefix, lookup)
                                                         : UnpackInt(stored, prefix, lookup));
      QD_ASSIGN_OR_RETURN(linear.input.rotation,
                          ReadInputRotation(configuration, module, linear.inputs()));
      return linear;
    });
  }

  nlohmann::json Configuration(const ConfigRequest& request) const override {
    return CompressedTensorsConfiguration(request);
  }

  bool Recognizes(const nlohmann::json& configuration) const override {
    return configuration.value("quant_method", nlohmann::json()) == "compressed-tensors";
  }

  absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const override {
    return OpenModuleWeights(
        *this,
        {.markers = {"weight_packed", "weight_scale"},
         .tensors = {"weight_packed", "weight", "weight_scale", "weight_zero_point"},
         .shape = [](const StoredModule& module) -> absl::StatusOr<std::vector<int64_t>> {
           if (!module.Has("weight_packed")) return MatrixShape(module, "weight");
           return TorchCall("reading a shape", [&] {
             return ReadShape([&](absl::string_view name) { return module.checkpoint.Find(name); },
                              module.module + ".weight_shape");
           });
         },
         .input =
             [](const StoredModule& module) {
               const auto stored =
                   ReadCompressedTensorsConfiguration(module.configuration, module.module);
               if (!stored.ok()) return InputQuantization{};
               return TorchCall("reading an input scale",
                                [&] {
                                  return ReadInput(stored->input, module.module + ".",
                                                   [&](absl::string_view name) {
                                                     return module.checkpoint.Find(name);
                                                   });
                                })
                   .value_or(InputQuantization{});
             },
         .rotation =
             [](const StoredModule& module, int64_t inputs) {
               return ReadInputRotation(module.configuration, module.module, inputs);
             }},
        std::move(checkpoint));
  }
};

}  // namespace

const Format* CompressedTensorsFormat() {
  static const CompressedTensorsFormatImpl format;
  return &format;
}

}  // namespace quantd::engine
