// Activations inside the block at hand, kept from one pass over the calibration sequences to the
// next: with `true_sequential` every group of linears asks for a pass, and each begins where the
// one before it ended, so that no linear is computed twice. What does not fit is computed again,
// to the same numbers.
#pragma once

#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/models/layer.h"
#include "workers/engine/quantize/activations.h"

namespace quantd::engine {

// Not thread-safe.
class KeptPoints : public BlockMemory {
 public:
  // `sequences` as the calibration activations are shaped; at most `bytes_max` on `device`.
  KeptPoints(const ActivationShape& sequences, int64_t bytes_max, at::Device device)
      : shape_(sequences), bytes_max_(bytes_max), device_(device) {}

  // Bytes that are held at once for a dense block of this model.
  static int64_t BytesNeeded(const ModelConfig& config, const ActivationShape& sequences);

  // The pass that follows is over sequences [begin, begin + count).
  void StartBatch(int64_t begin, int64_t count);
  // From now on nothing further is kept: the last pass through the block begins.
  void Freeze() { frozen_ = true; }
  // Lets everything go: the next block begins.
  void Clear();
  // Memory is short: lets everything go and keeps nothing any more. False: nothing was held.
  bool GiveUp();

  absl::StatusOr<at::Tensor> Recall(BlockPoint point) override;
  absl::Status Keep(BlockPoint point, const at::Tensor& value) override;

 private:
  struct Held {
    ActivationStore store;
    int64_t sequences = 0;  // The first so many are there.
    int64_t bytes = 0;
  };
  int64_t HeldBytes() const;

  const ActivationShape shape_;
  int64_t bytes_max_;
  const at::Device device_;
  std::map<BlockPoint, Held> held_;
  int64_t begin_ = 0, count_ = 0;
  bool frozen_ = false;
};

}  // namespace quantd::engine
