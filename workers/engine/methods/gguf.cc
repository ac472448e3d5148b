// Mixtures (q4_k_m and the like) are llama.cpp's: which layers get more bits is a rule over their
// names, applied as options of single modules before the user's overrides.
#include "workers/engine/methods/gguf.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/methods/gguf_blocks.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// A mixture: most layers have `base`, v and down projections of some blocks (and the head)
// `better`.
struct Mixture {
  absl::string_view name;
  absl::string_view base;
  absl::string_view better;
};
constexpr Mixture kMixtures[] = {{"q4_k_m", "q4_k", "q6_k"}, {"q5_k_m", "q5_k", "q6_k"}};

const Mixture* FindMixture(absl::string_view type) {
  for (const Mixture& mixture : kMixtures) {
    if (mixture.name == type) return &mixture;
  }
  return nullptr;
}

// The first and last eighth of the blocks and every third between them.
bool MoreBits(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

std::vector<nlohmann::json> TypeNames(bool outer) {
  std::vector<nlohmann::json> names;
  if (outer) names = {"auto"};
  for (const BlockEncoding& encoding : GgufEncodings()) {
    if (encoding.name != "f32") names.emplace_back(std::string(encoding.name));
  }
  if (outer) return names;
  for (const Mixture& mixture : kMixtures) names.emplace_back(std::string(mixture.name));
  return names;
}

std::vector<OptionInfo> Options() {
  const auto option = [](std::string name, OptionType type, nlohmann::json otherwise,
                         std::vector<nlohmann::json> allowed, std::string help) {
    OptionInfo info = {};
    info.name = std::move(name);
    info.type = type;
    info.default_value = std::move(otherwise);
    info.allowed = std::move(allowed);
    info.help = std::move(help);
    return info;
  };
  return {
      option("type", OptionType::kString, "q4_k_m", TypeNames(false),
             "Block type of the linear layers; q4_k_m and q5_k_m mix types as llama.cpp does."),
      option("importance", OptionType::kBool, false, {},
             "Weigh errors by the mean square of each input channel, which calibration measures."),
      option("embedding", OptionType::kString, "auto", TypeNames(true),
             "Type of the token embedding. auto: as the original, or the mixture's."),
      option("head", OptionType::kString, "auto", TypeNames(true),
             "Type of the head where it is not the embedding. auto: as the original, or the "
             "mixture's."),
  };
}

// Embedding and head as the file will hold them, so that what runs during quantization is what is
// read back.
class RoundedOuter : public WrappedWeights {
 public:
  RoundedOuter(std::shared_ptr<const WeightSource> base, std::map<std::string, std::string> types)
      : WrappedWeights(*base), owned_(std::move(base)), types_(std::move(types)) {}

  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override {
    QD_ASSIGN_OR_RETURN(const at::Tensor stored, base_.Read(name));
    const auto found = types_.find(std::string(name));
    if (found == types_.end()) return stored;
    return TorchCall(absl::StrCat("rounding ", name), [&]() -> absl::StatusOr<at::Tensor> {
      const at::Tensor weight = stored.to(at::kFloat).contiguous();
      QD_RETURN_IF_ERROR(CheckFinite(name, weight));
      return QuantizeToBlocks(weight, *FindGgufEncoding(found->second), {}).Dequantize(at::kFloat);
    });
  }

  // Anything shorter would round them once more.
  absl::StatusOr<DType> StoredType(absl::string_view name) const override {
    if (types_.contains(std::string(name))) return DType::kF32;
    return base_.StoredType(name);
  }

 private:
  std::shared_ptr<const WeightSource> owned_;
  std::map<std::string, std::string> types_;
};

class GgufMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info = *new MethodInfo{
        .name = "gguf",
        .summary = "Block types of llama.cpp (q4_0 ... q6_k and mixtures), searched in seconds.",
        .options = Options(),
        .formats = {"gguf"},
        .needs_calibration = false,
        .reference = "The GGUF format of ggml; scales by weighted least squares."};
    return info;
  }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    return BlockScheme(name, outputs, inputs, BaseType(options));
  }

  CalibrationNeeds Needs(const nlohmann::json& options) const override {
    const bool importance = options.at("importance").get<bool>();
    return {.inputs = importance, .hessian = importance};
  }

  nlohmann::json ModuleOptions(const ModelConfig& config, int64_t layer, absl::string_view module,
                               const nlohmann::json& options) const override {
    const Mixture* mixture = FindMixture(options.at("type").get<std::string>());
    if (mixture == nullptr) return options;
    const bool sensitive = absl::EndsWith(module, "v_proj") || absl::EndsWith(module, "down_proj");
    const bool better = sensitive && MoreBits(layer, config.layers);
    nlohmann::json own = options;
    own["type"] = std::string(better ? mixture->better : mixture->base);
    return own;
  }

  absl::StatusOr<std::optional<TransformedModel>> TransformModel(
      const TransformRequest& request) const override {
    const bool tied = request.config.tie_word_embeddings;
    std::map<std::string, std::string> types;
    for (const bool is_head : {false, true}) {
      if (is_head && tied) continue;
      const std::string type = GgufOuterType(request.options, is_head, tied);
      if (type.empty()) continue;
      types[std::string(is_head ? request.row.head : request.row.embedding)] =
          std::string(GgufTypeFor(type, request.config.hidden_size));
    }
    if (types.empty()) return std::nullopt;
    return TransformedModel{.source = std::make_shared<RoundedOuter>(request.source, types),
                            .config_edits = nlohmann::json::object(),
                            .fallbacks = {}};
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("quantizing ", job.name), [&]() -> absl::StatusOr<LinearResult> {
      const at::Tensor weight = job.weight.to(at::kCPU).contiguous();
      QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), weight));
      QD_ASSIGN_OR_RETURN(const at::Tensor importance, Importance(job));
      return QuantizeBlocks(job.name, weight, BaseType(*job.options), importance);
    });
  }

 private:
  static std::string BaseType(const nlohmann::json& options) {
    const std::string type = options.at("type").get<std::string>();
    const Mixture* mixture = FindMixture(type);
    return mixture == nullptr ? type : std::string(mixture->base);
  }
  // Mean squares of the input channels, scaled to a mean of one. Channels that calibration never
  // saw keep a little weight: other text may use them.
  static absl::StatusOr<at::Tensor> Importance(const LinearJob& job) {
    if (!job.options->at("importance").get<bool>() || job.statistics == nullptr ||
        !job.statistics->hessian.defined()) {
      return at::Tensor();
    }
    constexpr double kLeast = 1e-3;
    at::Tensor squares = job.statistics->hessian.diagonal().to(at::kCPU, at::kFloat).clone();
    QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat("the input of ", job.name), squares));
    const double mean = squares.mean().item<double>();
    if (!(mean > 0)) return at::Tensor();
    return (squares / mean).clamp_min(kLeast).contiguous();
  }
};

}  // namespace

std::string GgufOuterType(const nlohmann::json& options, bool is_head, bool tied) {
  const auto found = options.find(is_head ? "head" : "embedding");
  if (found == options.end()) return "";
  const std::string given = found->get<std::string>();
  if (given != "auto") return given;
  const Mixture* mixture = FindMixture(options.value("type", ""));
  if (mixture == nullptr) return "";
  return std::string(is_head || tied ? mixture->better : mixture->base);
}

const Method* Gguf() {
  static const GgufMethod method;
  return &method;
}

}  // namespace quantd::engine
