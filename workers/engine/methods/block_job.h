// One decoder block at work, as methods see it that must run it: scaling and clipping that are
// searched on real inputs (AWQ, SmoothQuant), rounding learned on the block's output (AdaRound).
// The quantize room implements it; methods know nothing of streams, files and resuming.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/models/decoder.h"

namespace quantd::engine {

// Not thread-safe. Errors of memory are for the caller: it makes room and starts the hook again on
// unedited weights.
class BlockJob {
 public:
  struct LinearInfo {
    std::string name;  // "model.layers.3.mlp.down_proj"
    LinearShape shape;
    const nlohmann::json* options = nullptr;  // Resolved.
  };

  virtual ~BlockJob() = default;

  virtual const Decoder& decoder() const = 0;
  virtual int64_t layer() const = 0;
  // Those to be quantized, in the order of computation.
  virtual const std::vector<LinearInfo>& linears() const = 0;
  virtual uint64_t seed() const = 0;

  // The block as the checkpoint (and edits so far) have it, in the decoder's dtype. To try
  // something, copy it and change the copy: tensors are shared until SetWeight.
  virtual absl::StatusOr<Block> FloatBlock() = 0;
  // A tensor by its checkpoint name, as edited so far: float32 on the CPU, a copy.
  virtual absl::StatusOr<at::Tensor> Read(const std::string& name) = 0;
  virtual bool Has(const std::string& name) const = 0;
  // Replaces a tensor of this block by full-precision numbers of the same shape. A weight that will
  // be quantized is kept in float32 until then; anything else is rounded at once to the type in
  // which the checkpoint stores it, is computed with like that, and is written to the output. Read
  // afterwards says what it became.
  virtual absl::Status Edit(const std::string& name, const at::Tensor& value) = 0;

  // Calibration: sequences, and how many at a time fit into memory.
  virtual int64_t sequences() const = 0;
  virtual int64_t batch_size() const = 0;
  // The block's inputs [count, T, H] of sequences [begin, begin + count), on the decoder's device;
  // what the quantized blocks before it compute. Not to be written to.
  virtual absl::StatusOr<at::Tensor> Inputs(int64_t begin, int64_t count) = 0;
  // What the original model's block gives out there. Only where CalibrationNeeds::original.
  virtual absl::StatusOr<at::Tensor> Targets(int64_t begin, int64_t count) = 0;

  // Passes over all calibration inputs, shared out between as many devices as this says: each runs
  // the block as FloatBlock gives it now (`block`, on the decoder's device) over its own part of
  // the sequences and shows what reaches the linears to hooks[i], all at the same time.
  virtual size_t devices() const = 0;
  virtual absl::Status PassOver(const Block& block, const std::vector<LinearHook*>& hooks) = 0;

  // Something is done another way than asked; `module` may be empty.
  virtual void Fallback(absl::string_view kind, absl::string_view module,
                        absl::string_view description) = 0;
  // A fact for the records: quantization_metadata.json "notes". `key` names it in the whole model.
  virtual void Note(const std::string& key, const nlohmann::json& value) = 0;
  // OK as long as the job may go on.
  virtual absl::Status CheckCancelled() = 0;
};

}  // namespace quantd::engine
