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
#include "workers/engine/models/input_quantization.h"
#include "workers/engine/models/packed_weight.h"

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
  // The type in which the dense tensor is (or would be) written to a checkpoint. The default reads
  // the tensor to see.
  virtual absl::StatusOr<DType> StoredType(absl::string_view name) const;
  // What is done to the input of the linear layer with the weight `name` at run time.
  virtual InputQuantization InputRounding(absl::string_view name) const { return {}; }
  // The weight `name` for products in `dtype` on `device` without widening it; null where it is not
  // stored in a way that a kernel there multiplies with.
  virtual absl::StatusOr<std::shared_ptr<const PackedWeight>> ReadPacked(
      absl::string_view name, at::Device device, at::ScalarType dtype) const {
    return nullptr;
  }
};

// A source that changes some of another's tensors; everything else goes through.
class WrappedWeights : public WeightSource {
 public:
  explicit WrappedWeights(const WeightSource& base) : base_(base) {}
  bool Has(absl::string_view name) const override { return base_.Has(name); }
  absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const override {
    return base_.Shape(name);
  }
  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override {
    return base_.Read(name);
  }
  void Release(absl::string_view name) const override { base_.Release(name); }
  std::string Where(absl::string_view name) const override { return base_.Where(name); }
  absl::StatusOr<DType> StoredType(absl::string_view name) const override {
    return base_.StoredType(name);
  }
  InputQuantization InputRounding(absl::string_view name) const override {
    return base_.InputRounding(name);
  }

 protected:
  const WeightSource& base_;  // Must outlive this.
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
  absl::StatusOr<DType> StoredType(absl::string_view name) const override;

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
  const Architecture* row_ = nullptr;  // Null: not a supported one.
};

// Whether `source` holds every tensor of the model in the shape that the config demands. Reads no
// bytes.
absl::Status ValidateWeights(const ModelConfig& config, const Architecture& row,
                             const WeightSource& source);

}  // namespace quantd::engine
