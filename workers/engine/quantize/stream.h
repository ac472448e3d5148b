// Runs a model block by block over the calibration sequences and the probe, and gives way when
// memory runs out: first smaller batches, then activations in host memory, then the CPU; each step
// is recorded.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/models/decoder.h"
#include "workers/engine/quantize/activations.h"
#include "workers/engine/quantize/kept_points.h"
#include "workers/engine/quantize/plan.h"

namespace quantd::engine {

struct StreamOptions {
  int64_t batch_size = 0;                   // Sequences a forward pass; 0: chosen here.
  int64_t activation_bytes_max = 0;         // Host memory for activations; more go into a file.
  int64_t device_activation_bytes_max = 0;  // Device memory for them; more go into host memory.
  std::string work_dir;
  // Something is done another way than asked: kind, module, description.
  std::function<void(absl::string_view, absl::string_view, absl::string_view)> fallback;
  // OK as long as the job may go on.
  std::function<absl::Status()> check;
};

// Not thread-safe.
class BlockStream {
 public:
  // `plan` must outlive the stream.
  static absl::StatusOr<std::unique_ptr<BlockStream>> Create(const QuantizePlan& plan,
                                                             StreamOptions options);

  // Embeds the calibration sequences (int64 [S, T]; undefined: none) and the probe (int64 [1, P]).
  absl::Status Start(const at::Tensor& calibration, const at::Tensor& probe);

  // `source` must live until the next LoadBlock: the block may have to be loaded again elsewhere.
  absl::StatusOr<Block> LoadBlock(int64_t layer, const WeightSource& source);
  // Calibration activations in front of the block: sequences [begin, begin + count) as [count, T,
  // H] on the decoder's device. Not to be written to.
  absl::StatusOr<at::Tensor> Inputs(int64_t begin, int64_t count) const;
  // The same of the original model, which runs beside the quantized one where the plan needs it.
  absl::StatusOr<at::Tensor> Originals(int64_t begin, int64_t count) const;
  int64_t sequences() const { return store_.has_value() ? store_->sequences() : 0; }
  // What the plan needs of the inputs of these groups of linears, in front of what the block holds
  // now. `sequential`: nothing in front of them will change any more, so that the next pass through
  // this block may begin there.
  absl::StatusOr<std::map<int, InputStatistics>> Collect(Block& block, const std::set<int>& groups,
                                                         bool sequential);
  // The same for the head: its input is the final norm of the hidden states.
  absl::StatusOr<InputStatistics> CollectHead();
  // Replaces calibration activations and probe by the block's output.
  absl::Status Advance(Block& block);
  // Replaces the original model's activations by its own block's output; nothing where there are
  // none. Where the plan needs drift, after the block's linears have been quantized.
  absl::Status AdvanceOriginal(int64_t layer);
  // Runs `attempt` until it succeeds or no more memory can be won; `block` (may be null) follows
  // when the device changes.
  absl::Status WithRelief(Block* block, const std::function<absl::Status()>& attempt);
  // The probe's hidden states after the last block, [1, P, H].
  const at::Tensor& probe() const { return probe_; }

  const Decoder& decoder() const { return *decoder_; }
  int64_t batch_size() const { return batch_size_; }

 private:
  BlockStream(const QuantizePlan& plan, StreamOptions options)
      : plan_(plan), options_(std::move(options)) {}
  absl::Status CreateDecoder(at::Device device);
  absl::StatusOr<ActivationStore> CreateStore(const ActivationShape& shape);
  // `kept` (may be null): of earlier passes over the same sequences.
  absl::Status AdvanceStore(ActivationStore& store, Block& block, KeptPoints* kept);
  // Runs the original block over the sequences as far as these groups, whose inputs it returns.
  absl::StatusOr<std::map<int, at::Tensor>> OriginalInputs(int64_t layer,
                                                           const std::set<int>& groups,
                                                           int64_t begin, int64_t count,
                                                           bool sequential);
  absl::Status LoadOriginal(int64_t layer);
  absl::Status Relieve(Block* block, const absl::Status& reason);
  absl::Status MoveToCpu(Block* block);

  const QuantizePlan& plan_;
  StreamOptions options_;
  std::optional<Decoder> decoder_;
  std::optional<ActivationStore> store_, originals_;
  std::optional<KeptPoints> kept_, kept_originals_;
  std::optional<Block> original_;  // The block at hand as the original model has it.
  const WeightSource* block_source_ = nullptr;
  int64_t batch_size_ = 1;
  at::Tensor probe_;
};

}  // namespace quantd::engine
