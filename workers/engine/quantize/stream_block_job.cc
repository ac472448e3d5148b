// See stream_block_job.h.
#include "workers/engine/quantize/stream_block_job.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {

StreamBlockJob::StreamBlockJob(const QuantizePlan& plan, int64_t layer, BlockStream& stream,
                               WeightOverlay& overlay, std::function<absl::Status()> check)
    : plan_(plan), layer_(layer), stream_(stream), overlay_(overlay), check_(std::move(check)) {
  for (const PlannedLinear* linear : plan.UnitLinears(layer)) {
    linears_.push_back({linear->name, linear->shape, &linear->options});
  }
}

void StreamBlockJob::Reset() {
  overlay_.Clear();
  fallbacks_.clear();
  notes_ = nlohmann::json::object();
}

absl::StatusOr<at::Tensor> StreamBlockJob::Read(const std::string& name) {
  QD_ASSIGN_OR_RETURN(const at::Tensor stored, overlay_.Read(name));
  absl::StatusOr<at::Tensor> copy = TorchCall(absl::StrCat("reading ", name), [&] {
    return stored.to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
  });
  overlay_.Release(name);
  return copy;
}

absl::Status StreamBlockJob::Edit(const std::string& name, const at::Tensor& value) {
  if (!absl::StartsWith(name, BlockPrefix(*plan_.row, layer_))) {
    return absl::InternalError(
        absl::StrCat("a method edits ", name, ", which is not in block ", layer_));
  }
  QD_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, overlay_.Shape(name));
  if (value.sizes().vec() != shape) {
    return absl::InternalError(absl::StrCat("a method gives ", name, " the shape ",
                                            ShapeText(value.sizes().vec()), " instead of ",
                                            ShapeText(shape)));
  }
  const bool quantized =
      std::any_of(linears_.begin(), linears_.end(),
                  [&](const LinearInfo& linear) { return linear.name + ".weight" == name; });
  at::ScalarType type = at::kFloat;
  if (!quantized) {
    QD_ASSIGN_OR_RETURN(const DType stored, overlay_.StoredType(name));
    type = ToScalarType(stored);
  }
  return TorchCall(absl::StrCat("editing ", name), [&] {
    overlay_.Set(name,
                 value.to(at::kCPU, type, /*non_blocking=*/false, /*copy=*/true).contiguous());
  });
}

void StreamBlockJob::Fallback(absl::string_view kind, absl::string_view module,
                              absl::string_view description) {
  fallbacks_.push_back({std::string(kind), std::string(module), std::string(description)});
}

}  // namespace quantd::engine
