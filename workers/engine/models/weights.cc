// Plain checkpoints as a source of weights, and the check that any source fits its config.
#include "workers/engine/models/weights.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {

CheckpointWeights::CheckpointWeights(std::shared_ptr<const Checkpoint> checkpoint)
    : checkpoint_(std::move(checkpoint)) {
  const absl::StatusOr<const Architecture*> row = FindArchitecture(checkpoint_->config());
  if (row.ok()) row_ = *row;
}

bool CheckpointWeights::Has(absl::string_view name) const { return checkpoint_->Has(name); }

absl::StatusOr<std::vector<int64_t>> CheckpointWeights::Shape(absl::string_view name) const {
  QD_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->Find(name));
  if (row_ == nullptr) return view.shape;
  return StoredShape(*row_, {std::string(name), view.dtype, view.shape});
}

absl::StatusOr<at::Tensor> CheckpointWeights::Read(absl::string_view name) const {
  QD_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->Find(name));
  if (view.dtype != DType::kF32 && view.dtype != DType::kBF16 && view.dtype != DType::kF16) {
    return absl::DataLossError(absl::StrCat("tensor \"", name, "\" in ", checkpoint_->FileOf(name),
                                            " is ", DTypeName(view.dtype),
                                            "; a weight must be F32, BF16 or F16"));
  }
  QD_ASSIGN_OR_RETURN(const at::Tensor stored, ViewTensor(view));
  const TensorInfo info = {std::string(name), view.dtype, view.shape};
  if (row_ == nullptr || !IsStoredTransposed(*row_, info)) return stored;
  return TorchCall(absl::StrCat("transposing ", name), [&] { return stored.t().contiguous(); });
}

void CheckpointWeights::Release(absl::string_view name) const { checkpoint_->ReleasePages(name); }

std::string CheckpointWeights::Where(absl::string_view name) const {
  return absl::StrCat(checkpoint_->folder(), "/", checkpoint_->FileOf(name));
}

absl::StatusOr<DType> CheckpointWeights::StoredType(absl::string_view name) const {
  QD_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->Find(name));
  return view.dtype;
}

absl::StatusOr<DType> WeightSource::StoredType(absl::string_view name) const {
  QD_ASSIGN_OR_RETURN(const at::Tensor tensor, Read(name));
  const absl::StatusOr<DType> type = ToDType(tensor.scalar_type());
  Release(name);
  return type;
}

absl::Status ValidateWeights(const ModelConfig& config, const Architecture& row,
                             const WeightSource& source) {
  for (const ExpectedTensor& expected : ExpectedTensors(config, row)) {
    QD_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, source.Shape(expected.name),
                        "checking the weights of a ", row.name);
    if (shape != expected.shape) {
      return absl::DataLossError(absl::StrCat("tensor \"", expected.name, "\" in ",
                                              source.Where(expected.name), " has the shape ",
                                              ShapeText(shape), ", but config.json of this ",
                                              row.name, " demands ", ShapeText(expected.shape)));
    }
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
