// Round to nearest with a scale (and a zero) per row and group, by the convention of the GPTQ
// family: kernels/ find_params.h has the formula. Needs no data.
#include "workers/engine/methods/rtn.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

std::vector<OptionInfo> RtnOptions() {
  std::vector<OptionInfo> options = IntegerOptions();
  options.push_back({.name = "scale_search",
                     .type = OptionType::kBool,
                     .default_value = false,
                     .allowed = {},
                     .minimum = {},
                     .maximum = {},
                     .help = "Choose each group's scale by the squared error it leaves instead of "
                             "its largest weight."});
  return options;
}

class RtnMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info =
        *new MethodInfo{.name = "rtn",
                        .summary = "Round to nearest: seconds, no data, the baseline to beat.",
                        .options = RtnOptions(),
                        .formats = IntegerFormats(),
                        .needs_calibration = false,
                        .reference =
                            "The convention of the GPTQ family: symmetric scale "
                            "2 max|w| / (2^bits - 1), rounded to float16 first.",
                        .on_device = true};
    return info;
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("rounding ", job.name), [&]() -> absl::StatusOr<LinearResult> {
      const at::Tensor weight = job.weight.contiguous();
      QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), weight));
      const IntegerScheme scheme = IntegerSchemeOf(*job.options, weight.size(1));
      QuantizedLinear linear = EmptyLinear(scheme, weight.size(0), weight.size(1), weight.device());
      const bool searches = job.options->at("scale_search").get<bool>();
      RoundToNearest(weight, scheme, {.steps = searches ? kScaleSearchSteps : 0}, linear);
      return WithRoundingLoss(linear, weight);
    });
  }
};

}  // namespace

const Method* Rtn() {
  static const RtnMethod method;
  return &method;
}

}  // namespace quantd::engine
