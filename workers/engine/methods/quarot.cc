// QuaRot (Ashkboos, Mohtashami, Croci, Li, Cameron, Jaggi, Alistarh, Hoefler, Hensman, 2024). By
// default in the form that every runtime loads: the rotations of the residual stream (R1) and of
// the values of each head (R2) are folded into the weights, so that the result is an ordinary
// checkpoint of the same architecture with neutral norms and an untied head. On request also what a
// runtime has to take part in: the rotation of what the down projection reads (R4), inputs of few
// bits, and a cache of few bits whose keys are rotated (R3). Then the weights are quantized by rtn
// or gptq.
#include "workers/engine/methods/quarot.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/methods/gptq.h"
#include "workers/engine/methods/rotated_weights.h"
#include "workers/engine/methods/rtn.h"
#include "workers/engine/models/hadamard.h"
#include "workers/engine/models/online_rotation.h"

namespace quantd::engine {
namespace {

// Rounding methods by the name of the option "weights".
const Method* Rounding(const nlohmann::json& options) {
  return options.at("weights") == "gptq" ? Gptq() : Rtn();
}

OptionInfo BitsOption(const char* name, const char* help) {
  return {.name = name,
          .type = OptionType::kInt,
          .default_value = 16,
          .allowed = {4, 8, 16},
          .minimum = {},
          .maximum = {},
          .help = help,
          .whole_job = true};
}

OptionInfo Switch(const char* name, bool otherwise, const char* help) {
  return {.name = name,
          .type = OptionType::kBool,
          .default_value = otherwise,
          .allowed = {},
          .minimum = {},
          .maximum = {},
          .help = help,
          .whole_job = true};
}

std::vector<OptionInfo> Options() {
  std::vector<OptionInfo> options = Gptq()->Info().options;
  options.push_back({.name = "weights",
                     .type = OptionType::kString,
                     .default_value = "gptq",
                     .allowed = {"gptq", "rtn"},
                     .minimum = {},
                     .maximum = {},
                     .help = "How the rotated weights are quantized; rtn needs no calibration and "
                             "heeds scale_search alone.",
                     .whole_job = true});
  options.push_back(Switch("random_signs", true,
                           "Flip the signs of channels at random (from the job's seed) before the "
                           "Hadamard matrix."));
  options.push_back(Switch("online_rotation", false,
                           "Rotate what the down projection reads, too, while the model runs (R4): "
                           "better, but only in runtimes that know transforms; format "
                           "compressed-tensors."));
  options.push_back(BitsOption("activation_bits",
                               "Bits of what the linear layers read, rounded per token while the "
                               "model runs; below 16 in format compressed-tensors."));
  options.push_back(BitsOption("kv_bits",
                               "Bits of keys (rotated, R3) and values in the cache; below 16 in "
                               "format compressed-tensors and this engine alone."));
  return options;
}

// What the linear layers' inputs are rounded to.
InputKind Inputs(const nlohmann::json& options) {
  switch (options.at("activation_bits").get<int>()) {
    case 4:
      return InputKind::kInt4PerToken;
    case 8:
      return InputKind::kInt8PerToken;
    default:
      return InputKind::kFloat;
  }
}

class QuaRotMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info = *new MethodInfo{
        .name = "quarot",
        .summary =
            "Rotates outliers away (Hadamard), then gptq or rtn; for low bits and few groups.",
        .options = Options(),
        .formats = IntegerFormats(),
        .needs_calibration = true,
        .reference = "https://arxiv.org/abs/2404.00456",
        .instead = "gptq",
        .rows_apart = true};
    return info;
  }

  absl::Status CheckOptions(const nlohmann::json& options) const override {
    return Rounding(options)->CheckOptions(options);
  }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    LinearScheme scheme = Rounding(options)->Scheme(name, outputs, inputs, options);
    scheme.input = Inputs(options);
    return scheme;
  }

  CalibrationNeeds Needs(const nlohmann::json& options) const override {
    return Rounding(options)->Needs(options);
  }

  absl::StatusOr<std::optional<TransformedModel>> TransformModel(
      const TransformRequest& request) const override {
    QD_RETURN_IF_ERROR(CheckRotatable(request.config, request.row));
    const bool signs = request.options.at("random_signs").get<bool>();
    Rotation stream = Rotation::Make(request.config.hidden_size, request.seed, signs);
    Rotation values = Rotation::Make(request.config.head_dim, request.seed + 1, signs);
    TransformedModel model;
    for (const Rotation* rotation : {&stream, &values}) {
      if (rotation->block() == rotation->size()) continue;
      model.fallbacks.push_back({"block_hadamard", "",
                                 absl::StrCat("no Hadamard matrix of order ", rotation->size(),
                                              " is known to be constructed here; blocks of ",
                                              rotation->block(), " channels are rotated")});
    }
    model.source = std::make_shared<RotatedWeights>(
        request.config, request.row, request.source, std::move(stream), std::move(values),
        request.options.at("online_rotation").get<bool>());
    model.cache.bits = request.options.at("kv_bits").get<int>();
    if (model.cache.bits < 16) model.cache.rotation = OnlineBlock(request.config.head_dim);
    if (request.config.tie_word_embeddings) model.config_edits["tie_word_embeddings"] = false;
    return model;
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    const Method* rounding = Rounding(*job.options);
    const InputKind input = Inputs(*job.options);
    QD_ASSIGN_OR_RETURN(LinearResult result, rounding->Quantize(std::move(job)));
    std::get<QuantizedLinear>(result.linear).input.kind = input;
    return result;
  }
};

}  // namespace

const Method* QuaRot() {
  static const QuaRotMethod method;
  return &method;
}

}  // namespace quantd::engine
