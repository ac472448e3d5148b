// One device's part of a stream: its share of the calibration sequences, what it keeps of them, and
// the passes of a block over them. What is to be done when memory runs out is for the stream to
// say.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/calibration/statistics.h"
#include "workers/engine/models/decoder.h"
#include "workers/engine/quantize/activations.h"
#include "workers/engine/quantize/kept_points.h"
#include "workers/engine/quantize/plan.h"

namespace quantd::engine {

struct StreamOptions {
  int64_t batch_size = 0;                   // Sequences a forward pass; 0: chosen here.
  int64_t activation_bytes_max = 0;         // Host memory for activations; more go into a file.
  int64_t device_activation_bytes_max = 0;  // Of each device for them; more go into host memory.
  std::string work_dir;
  // Something is done another way than asked: kind, module, description.
  std::function<void(absl::string_view, absl::string_view, absl::string_view)> fallback;
  // OK as long as the job may go on. Thread-safe.
  std::function<absl::Status()> check;
};

// The model as quantized so far, or the original that may run beside it.
enum class Stage { kQuantized, kOriginal };

// Not thread-safe, but lanes may work at the same time.
class StreamLane {
 public:
  // `plan` must outlive it; `options` bounds this lane's memory.
  StreamLane(const QuantizePlan& plan, StreamOptions options)
      : plan_(plan), options_(std::move(options)) {}

  absl::Status CreateDecoder(at::Device device, bool with_head);
  // Computes with that one from now on; none: its memory is wanted.
  void UseDecoder(std::optional<Decoder> decoder);
  const Decoder& decoder() const { return *decoder_; }
  absl::StatusOr<Block> LoadBlock(int64_t layer, const WeightSource& source) const {
    return decoder_->LoadBlock(layer, source);
  }

  // Embeds this lane's sequences, int64 [S, T].
  absl::Status Start(const at::Tensor& calibration, int64_t batch_size);
  bool started() const { return of(Stage::kQuantized).store.has_value(); }
  int64_t sequences() const { return started() ? of(Stage::kQuantized).store->sequences() : 0; }
  // Its own sequences [begin, begin + count) as [count, T, H] on the decoder's device.
  absl::StatusOr<at::Tensor> Inputs(Stage stage, int64_t begin, int64_t count) const;

  // Passes through the block as far as these groups, whose inputs the collector sees.
  absl::Status Collect(const Block& block, const std::set<int>& groups, bool sequential,
                       int64_t batch_size, StatisticsCollector& collector);
  absl::Status CollectHead(int64_t batch_size, StatisticsCollector& collector);
  // Passes through the block with a hook.
  absl::Status PassOver(const Block& block, int64_t batch_size, LinearHook* hook);
  // Replaces activations by the block's output. Sequences before `begin` are replaced already and
  // must not be run again; it moves on with the work.
  absl::Status Advance(Stage stage, const Block& block, int64_t batch_size, int64_t& begin);
  // The block at hand as the original model has it, where Collect or this has loaded it, or now.
  absl::Status LoadOriginal(int64_t layer);
  Block TakeOriginal();

  // Each wins memory; false: there was none to win.
  bool GiveUpKept(Stage stage);
  bool on_device() const { return started() && of(Stage::kQuantized).store->on_device(); }
  absl::Status MoveToHost();

 private:
  struct Activations {
    std::optional<ActivationStore> store;
    std::optional<KeptPoints> kept;
    BlockMemory* memory() { return kept.has_value() ? &*kept : nullptr; }
  };
  Activations& of(Stage stage) { return activations_[static_cast<int>(stage)]; }
  const Activations& of(Stage stage) const { return activations_[static_cast<int>(stage)]; }
  absl::StatusOr<ActivationStore> CreateStore(const ActivationShape& shape);
  // Runs the original block over the sequences as far as these groups, whose inputs it returns.
  absl::StatusOr<std::map<int, at::Tensor>> OriginalInputs(int64_t layer,
                                                           const std::set<int>& groups,
                                                           int64_t begin, int64_t count,
                                                           bool sequential);

  const QuantizePlan& plan_;
  StreamOptions options_;
  std::optional<Decoder> decoder_;
  Activations activations_[2];
  std::optional<Block> original_;
};

}  // namespace quantd::engine
