// Where a model's dense weights come from, by the names a Hugging Face checkpoint gives them
// ("model.layers.0.mlp.up_proj.weight"), whatever lies on the disk: a plain checkpoint here, a
// quantized one in formats/.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/models/architecture.h"

namespace quantd::engine {

// Thread-safe for reading.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool Has(absl::string_view name) const = 0;
  // Of the dense tensor. NotFound names the tensor and where it was looked for.
  virtual absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const = 0;
  // A CPU tensor of a floating type, possibly a read-only view of a file that stays valid as long
  // as this source and until Release: copy before writing.
  virtual absl::StatusOr<at::Tensor> Read(absl::string_view name) const = 0;
  // The caller is done with `name` for now: memory that it alone held may go.
  virtual void Release(absl::string_view name) const {}
  // The file or folder that holds `name`, for messages.
  virtual std::string Where(absl::string_view name) const = 0;
};

// A plain checkpoint: tensors as they lie in the file, without a copy, but linears that are stored
// [in, out] (GPT-2) turned into [out, in] like all others.
class CheckpointWeights : public WeightSource {
 public:
  explicit CheckpointWeights(std::shared_ptr<const Checkpoint> checkpoint);
  bool Has(absl::string_view name) const override;
  absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const override;
  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override;
  void Release(absl::string_view name) const override;
  std::string Where(absl::string_view name) const override;

 private:
  bool IsTransposed(absl::string_view name, size_t dimensions) const;

  std::shared_ptr<const Checkpoint> checkpoint_;
  std::string transposed_prefix_;  // Of the blocks whose linears lie the other way; empty: none.
};

// Whether `source` holds every tensor of the model in the shape that the config demands. Reads no
// bytes.
absl::Status ValidateWeights(const ModelConfig& config, const Architecture& row,
                             const WeightSource& source);

}  // namespace quantd::engine
