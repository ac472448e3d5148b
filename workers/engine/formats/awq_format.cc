// AWQ's gemm layout on disk. For a linear P with weight [N, K] and groups of g, instead of
// P.weight:
//
//   P.qweight int32 [K, N / 8]    codes, packed along N        P.scales float16 [K / g, N]
//   P.qzeros  int32 [K / g, N / 8]  zero points, the same way
//
// Word c of a row holds the outputs 8c ... 8c + 7, half byte i that of kOrder[i]. Trusts nothing it
// reads; refuses the gemv layouts.
#include "workers/engine/formats/awq_format.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/formats/module_weights.h"
#include "workers/engine/formats/packed_words.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr int kBits = 4;
constexpr int64_t kPerWord = kWordBits / kBits;
constexpr int64_t kOrder[kPerWord] = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr int64_t kPlace[kPerWord] = {0, 4, 1, 5, 2, 6, 3, 7};  // Its inverse.
constexpr WordLayout kLayout = {.bits = kBits, .dim = 0, .transposed = true};

// Within every eight rows of `codes`: whole rows move, which is many times faster than columns.
at::Tensor Reorder(const at::Tensor& codes, const int64_t (&order)[kPerWord]) {
  const at::Tensor index = at::tensor(c10::ArrayRef<int64_t>(order, kPerWord));
  const at::Tensor first = at::arange(0, codes.size(0), kPerWord, at::kLong).unsqueeze(1);
  return codes.index_select(0, (first + index).reshape({-1}));
}

at::Tensor PackTransposed(const at::Tensor& codes) {
  return PackWords(Reorder(codes, kOrder), kLayout);
}

at::Tensor UnpackTransposed(const at::Tensor& words) {
  const std::vector<int64_t> shape = {words.size(1) * kPerWord, words.size(0)};
  return Reorder(UnpackWords(words, kLayout, shape), kPlace);
}

// What the configuration says about every module; the names of AutoAWQ's old file are read too.
struct AwqConfig {
  int64_t group_size = -1;
};

absl::StatusOr<AwqConfig> ReadConfig(const nlohmann::json& configuration) {
  const auto field = [&](const char* name, const char* old_name) {
    return configuration.contains(name) ? configuration[name]
                                        : configuration.value(old_name, nlohmann::json());
  };
  const nlohmann::json bits = field("bits", "w_bit");
  if (bits != kBits) {
    return absl::InvalidArgumentError(
        absl::StrCat("quantization_config.bits is ", JsonText(bits), "; AWQ has 4"));
  }
  const nlohmann::json version = field("version", "format");
  if (!version.is_null() &&
      (!version.is_string() || absl::AsciiStrToLower(version.get<std::string>()) != "gemm")) {
    return absl::InvalidArgumentError(
        absl::StrCat("quantization_config.version is ", JsonText(version), "; gemm can be read"));
  }
  const nlohmann::json group = field("group_size", "q_group_size");
  if (!group.is_number_integer() || (group.get<int64_t>() != -1 && group.get<int64_t>() <= 0)) {
    return absl::InvalidArgumentError(absl::StrCat("quantization_config.group_size is ",
                                                   JsonText(group), " instead of -1 or above 0"));
  }
  return AwqConfig{.group_size = group.get<int64_t>()};
}

absl::StatusOr<QuantizedWeight> UnpackModule(const AwqConfig& config, absl::string_view module,
                                             const TensorLookup& lookup) {
  const std::string prefix = absl::StrCat(module, ".");
  QD_ASSIGN_OR_RETURN(const at::Tensor qweight,
                      ReadTensor(lookup, prefix + "qweight", DType::kI32));
  if (qweight.dim() != 2 || qweight.numel() == 0) {
    return WrongShape(prefix + "qweight", qweight, "[inputs, outputs / 8]");
  }
  const int64_t inputs = qweight.size(0);
  const int64_t outputs = qweight.size(1) * kPerWord;
  const int64_t group = config.group_size == -1 ? inputs : config.group_size;
  if (inputs % group != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        module, " has ", inputs, " inputs, which group_size ", group, " does not divide"));
  }
  const int64_t groups = inputs / group;
  QD_ASSIGN_OR_RETURN(const at::Tensor qzeros, ReadTensor(lookup, prefix + "qzeros", DType::kI32,
                                                          {groups, qweight.size(1)}));
  QD_ASSIGN_OR_RETURN(const at::Tensor scales, ReadFloating(lookup, prefix + "scales"));
  if (scales.sizes().vec() != std::vector<int64_t>{groups, outputs}) {
    return WrongShape(prefix + "scales", scales, absl::StrCat("[", groups, ", ", outputs, "]"));
  }
  QuantizedLinear linear = {.bits = kBits,
                            .group_size = config.group_size,
                            .codes = UnpackTransposed(qweight),
                            .scales = scales.t().contiguous(),
                            .zeros = UnpackTransposed(qzeros),
                            .group_index = OrderedGroups(inputs, group)};
  linear.symmetric = (linear.zeros == (1 << (kBits - 1))).all().item<bool>();
  QD_RETURN_IF_ERROR(linear.Check(), module);
  return linear;
}

class AwqFormatImpl : public Format {
 public:
  const FormatInfo& Info() const override {
    static const auto& info =
        *new FormatInfo{.name = "awq",
                        .summary = "AWQ's gemm layout: 4 bits, whole zero points, float16 scales",
                        .loaders = {"transformers", "vllm", "sglang", "gptqmodel"}};
    return info;
  }

  absl::Status Supports(const LinearScheme& scheme) const override {
    if (scheme.encoding != Encoding::kAffine || scheme.axis != 1 || !scheme.integer_zeros ||
        !scheme.ordered_groups || scheme.input != InputKind::kFloat || scheme.bits != kBits) {
      return absl::InvalidArgumentError(
          absl::StrCat(scheme.module,
                       ": format awq holds 4-bit codes with whole zero points, in groups of inputs "
                       "that lie side by side, and full-precision inputs; not ",
                       SchemeToJson(scheme).dump(), "; format gptq holds other widths and orders"));
    }
    return CheckWholeWords("awq", scheme, "output rows", scheme.outputs);
  }

  absl::Status CheckRequest(const ConfigRequest& request) const override {
    for (const ModuleException& exception : request.exceptions) {
      if (exception.skipped || exception.scheme.group_size == request.scheme.group_size) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("overrides for ", exception.module,
                       ": format awq has one group size for the whole "
                       "model, ",
                       request.scheme.group_size, ", not also ", exception.scheme.group_size,
                       "; formats gptq and compressed-tensors can hold several"));
    }
    return absl::OkStatus();
  }

  std::vector<TensorInfo> Describe(const LinearScheme& scheme) const override {
    const int64_t group = scheme.group_size == -1 ? scheme.inputs : scheme.group_size;
    const int64_t groups = scheme.inputs / group;
    const int64_t words = scheme.outputs / kPerWord;
    return {{scheme.module + ".qweight", DType::kI32, {scheme.inputs, words}},
            {scheme.module + ".qzeros", DType::kI32, {groups, words}},
            {scheme.module + ".scales", DType::kF16, {groups, scheme.outputs}}};
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                const QuantizedWeight& weight) const override {
    return TorchCall(absl::StrCat("packing ", module),
                     [&]() -> absl::StatusOr<std::vector<NamedTensor>> {
                       QD_RETURN_IF_ERROR(Check(weight), module);
                       QD_RETURN_IF_ERROR(Supports(SchemeOf(module, weight)));
                       const auto& linear = std::get<QuantizedLinear>(weight);
                       const std::string prefix = absl::StrCat(module, ".");
                       return std::vector<NamedTensor>{
                           {prefix + "qweight", PackTransposed(linear.codes)},
                           {prefix + "qzeros", PackTransposed(linear.zeros)},
                           {prefix + "scales", linear.scales.t().to(at::kHalf).contiguous()}};
                     });
  }

  absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                         absl::string_view module,
                                         const TensorLookup& lookup) const override {
    QD_ASSIGN_OR_RETURN(const AwqConfig config, ReadConfig(configuration));
    return TorchCall(absl::StrCat("unpacking ", module),
                     [&] { return UnpackModule(config, module, lookup); });
  }

  nlohmann::json Configuration(const ConfigRequest& request) const override {
    nlohmann::json skipped;
    for (const ModuleException& exception : request.exceptions) {
      if (exception.skipped) skipped.push_back(exception.module);
    }
    // Symmetric codes too have their zero points on the disk, and some loaders want to be told so.
    return {{"quant_method", "awq"},
            {"bits", kBits},
            {"group_size", request.scheme.group_size},
            {"zero_point", true},
            {"version", "gemm"},
            {"lm_head", request.head_quantized},
            {"modules_to_not_convert", skipped}};
  }

  bool Recognizes(const nlohmann::json& configuration) const override {
    return configuration.value("quant_method", nlohmann::json()) == "awq";
  }

  absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const override {
    QD_RETURN_IF_ERROR(ReadConfig(checkpoint->raw_config().at("quantization_config")).status(),
                       checkpoint->folder(), "/config.json");
    return OpenModuleWeights(
        *this,
        {.markers = {"qweight"},
         .tensors = {"qweight", "qzeros", "scales"},
         .shape = [](const StoredModule& module) -> absl::StatusOr<std::vector<int64_t>> {
           QD_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, MatrixShape(module, "qweight"));
           return std::vector<int64_t>{shape[1] * kPerWord, shape[0]};
         }},
        std::move(checkpoint));
  }
};

}  // namespace

const Format* AwqFormat() {
  static const AwqFormatImpl format;
  return &format;
}

}  // namespace quantd::engine
