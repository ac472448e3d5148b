// Runs a model block by block over the calibration sequences and the probe, on one device or shared
// out over several: each holds the block, runs its part of the sequences through it and gathers
// statistics from them, which are then added up. It gives way when memory runs out, on all devices
// alike: first smaller batches, then activations in host memory, then the CPU; each step is
// recorded.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/models/decoder.h"
#include "workers/engine/quantize/plan.h"
#include "workers/engine/quantize/stream_lane.h"
#include "workers/engine/tensor/collective.h"
#include "workers/engine/tensor/device_threads.h"

namespace quantd::engine {

// A block on every device of the stream, with the same numbers.
using Replicas = std::vector<Block>;

// Not thread-safe.
class BlockStream {
 public:
  // On the plan's devices. `plan` must outlive the stream.
  static absl::StatusOr<std::unique_ptr<BlockStream>> Create(const QuantizePlan& plan,
                                                             StreamOptions options);

  // Embeds the calibration sequences (int64 [S, T]; undefined: none) and the probe (int64 [1, P]).
  absl::Status Start(const at::Tensor& calibration, const at::Tensor& probe);

  // On the first device. `source` must live until the next load: the block may have to be loaded
  // again elsewhere.
  absl::StatusOr<Block> LoadBlock(int64_t layer, const WeightSource& source);
  absl::StatusOr<Replicas> LoadReplicas(int64_t layer, const WeightSource& source);
  // Calibration activations in front of the block: sequences [begin, begin + count) as [count, T,
  // H] on the first device. Not to be written to. Stage::kOriginal: of the original model, which
  // runs beside the quantized one where the plan needs it.
  absl::StatusOr<at::Tensor> Inputs(Stage stage, int64_t begin, int64_t count) const;
  int64_t sequences() const;
  // Runs `block` (on the first device; elsewhere loaded from `source`, which must have the same)
  // over all sequences, each device its own with hooks[i]. Want of memory is for the caller.
  absl::Status PassOver(const Block& block, const WeightSource& source,
                        const std::vector<LinearHook*>& hooks);
  // What the plan needs of the inputs of these groups of linears, in front of what the block holds
  // now: the same for every device, on it. `sequential`: nothing in front of them will change any
  // more, so that the next pass through this block may begin there.
  absl::StatusOr<std::vector<std::map<int, InputStatistics>>> Collect(Replicas& block,
                                                                      const std::set<int>& groups,
                                                                      bool sequential);
  // The same for the head, on the first device: its input is the final norm of the hidden states.
  absl::StatusOr<InputStatistics> CollectHead();
  // Replaces calibration activations and probe by the block's output.
  absl::Status Advance(Replicas& block);
  // Replaces the original model's activations by its own block's output; nothing where there are
  // none. Where the plan needs drift, after the block's linears have been quantized.
  absl::Status AdvanceOriginal(int64_t layer);
  // Runs `attempt` until it succeeds or no more memory can be won; `block` (may be null) follows
  // when the devices change.
  absl::Status WithRelief(Replicas* block, const std::function<absl::Status()>& attempt);
  // work(i) for every device at the same time (DeviceThreads::Run).
  absl::Status OnEveryDevice(absl::FunctionRef<absl::Status(size_t)> work) {
    return threads_.Run(work);
  }
  // Waits until every device has done what it was given.
  absl::Status Synchronize() const;
  // The probe's hidden states after the last block, [1, P, H].
  const at::Tensor& probe() const { return probe_; }

  // Of the first device.
  const Decoder& decoder() const { return lanes_[0]->decoder(); }
  // Where the work is now; as many as at the start.
  const std::vector<at::Device>& devices() const { return devices_; }
  int64_t batch_size() const { return batch_size_; }

 private:
  BlockStream(const QuantizePlan& plan, StreamOptions options);
  absl::Status CreateDecoders();
  absl::Status CreateDecodersOnCpu();
  void ChooseCollective();
  absl::Status AdvanceLanes(Stage stage, Replicas& block);
  absl::Status Relieve(Replicas* block, const absl::Status& reason);
  absl::Status MoveToCpu(Replicas* block);

  const QuantizePlan& plan_;
  StreamOptions options_;
  std::vector<at::Device> devices_;
  std::vector<std::unique_ptr<StreamLane>> lanes_;  // One a device.
  DeviceThreads threads_;
  std::unique_ptr<Collective> collective_;
  const WeightSource* block_source_ = nullptr;
  int64_t batch_size_ = 1;
  at::Tensor probe_;
};

}  // namespace quantd::engine
