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

class RtnMethod : public Method {
 public:
  const MethodInfo& Info() const override {
    static const auto& info =
        *new MethodInfo{.name = "rtn",
                        .summary = "Round to nearest: seconds, no data, the baseline to beat.",
                        .options = IntegerOptions(),
                        .formats = {"gptq"},
                        .needs_calibration = false,
                        .reference =
                            "The convention of the GPTQ family: symmetric scale "
                            "2 max|w| / (2^bits - 1), rounded to float16 first."};
    return info;
  }

  absl::StatusOr<LinearResult> Quantize(LinearJob job) const override {
    return TorchCall(absl::StrCat("rounding ", job.name), [&]() -> absl::StatusOr<LinearResult> {
      const WorkPlace place = PlaceFor(job.weight);
      const at::Tensor weight = job.weight.to(place.device).contiguous();
      QD_RETURN_IF_ERROR(CheckFinite(absl::StrCat(job.name, ".weight"), weight));
      const IntegerScheme scheme = SchemeOf(*job.options, weight.size(1));
      LinearResult result;
      result.linear = EmptyLinear(scheme, weight.size(0), weight.size(1), place);
      RoundToNearest(weight, scheme, result.linear, place);
      QD_RETURN_IF_ERROR(place.Finish());
      MoveToHost(result.linear);
      QD_ASSIGN_OR_RETURN(const at::Tensor decoded, result.linear.Dequantize(at::kFloat));
      result.loss =
          (decoded.to(place.device) - weight).square().sum(at::kDouble).item<double>() / 2;
      return result;
    });
  }
};

}  // namespace

const Method* Rtn() {
  static const RtnMethod method;
  return &method;
}

}  // namespace quantd::engine
