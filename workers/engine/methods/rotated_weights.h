// A model written in rotated coordinates: the same function, other weights.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "workers/engine/models/hadamard.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {

// Unimplemented where the architecture cannot be rotated (norms that subtract a mean, norms behind
// a branch, learned positions), with the reason.
absl::Status CheckRotatable(const ModelConfig& config, const Architecture& row);

// R turns the residual stream (hidden_size), H the values of every head (head_dim):
//
//   embedding E R              norms' weights 1, their old ones in the layers that read them
//   q, k, v, gate, up, router  W diag(norm) R       v additionally H_heads^T (W ...)
//   o, down                    R^T W                o additionally (R^T W) H_heads, down with
//                                                   `online` (R^T W) H_inner
//   head                       W diag(final norm) R, of its own where it was tied to the embedding
//
// H_inner (models/online_rotation.h) has to be applied to what down reads while the model runs:
// InputRounding says so. Everything is computed in float64 when it is read and given as float32;
// `base` must be full precision.
class RotatedWeights : public WeightSource {
 public:
  RotatedWeights(const ModelConfig& config, const Architecture& row,
                 std::shared_ptr<const WeightSource> base, Rotation stream, Rotation values,
                 bool online = false);

  bool Has(absl::string_view name) const override;
  absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const override;
  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override;
  void Release(absl::string_view name) const override;
  std::string Where(absl::string_view name) const override;
  absl::StatusOr<DType> StoredType(absl::string_view name) const override;
  InputQuantization InputRounding(absl::string_view name) const override;

 private:
  // What a tensor is to the rotation.
  struct Part;
  Part PartOf(absl::string_view name) const;
  std::string BaseName(absl::string_view name) const;
  absl::StatusOr<at::Tensor> Rotate(const Part& part, const at::Tensor& stored,
                                    const at::Tensor& norm) const;

  ModelConfig config_;
  const Architecture& row_;
  std::shared_ptr<const WeightSource> base_;
  Rotation stream_, values_;
  bool online_;
};

}  // namespace quantd::engine
