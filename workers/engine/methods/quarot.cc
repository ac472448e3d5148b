// QuaRot (Ashkboos, Mohtashami, Croci, Li, Cameron, Jaggi, Alistarh, Hoefler, Hensman, 2024) in the
// form that every runtime loads: the rotations of the residual stream (R1) and of the values of
// each head (R2) are folded into the weights, so that the result is an ordinary checkpoint of the
// same architecture with neutral norms and an untied head. Then the weights are quantized by rtn or
// gptq.
#include "workers/engine/methods/quarot.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/methods/gptq.h"
#include "workers/engine/methods/hadamard.h"
#include "workers/engine/methods/rotated_weights.h"
#include "workers/engine/methods/rtn.h"

namespace quantd::engine {
namespace {

// Rounding methods by the name of the option "weights".
const Method* Rounding(const nlohmann::json& options) {
  return options.at("weights") == "gptq" ? Gptq() : Rtn();
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
  options.push_back({.name = "random_signs",
                     .type = OptionType::kBool,
                     .default_value = true,
                     .allowed = {},
                     .minimum = {},
                     .maximum = {},
                     .help =
                         "Flip the signs of channels at random (from the job's seed) before the "
                         "Hadamard matrix.",
                     .whole_job = true});
  return options;
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
        .instead = "gptq"};
    return info;
  }

  absl::Status CheckOptions(const nlohmann::json& options) const override {
    return Rounding(options)->CheckOptions(options);
  }

  LinearScheme Scheme(absl::string_view name, int64_t outputs, int64_t inputs,
                      const nlohmann::json& options) const override {
    return Rounding(options)->Scheme(name, outputs, inputs, options);
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
    model.source = std::make_shared<RotatedWeights>(request.config, request.row, request.source,
                                                    std::move(stream), std::move(values));
    if (request.config.tie_word_embeddings) model.config_edits["tie_word_embeddings"] = false;
    return model;
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    const Method* rounding = Rounding(*job.options);
    return rounding->Quantize(std::move(job));
  }
};

}  // namespace

const Method* QuaRot() {
  static const QuaRotMethod method;
  return &method;
}

}  // namespace quantd::engine
