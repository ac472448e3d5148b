// Quantizes one block (or the head) after another and keeps the stream in step, so that what
// follows sees what the written model will compute.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"
#include "workers/engine/quantize/overlay.h"
#include "workers/engine/quantize/plan.h"
#include "workers/engine/quantize/stream.h"
#include "workers/engine/quantize/work_folder.h"

namespace quantd::engine {

// What is kept of a finished unit.
struct UnitOutput {
  std::vector<NamedTensor> tensors;
  nlohmann::json records = nlohmann::json::array();
};

// Not thread-safe. All references must outlive it.
class BlockQuantizer {
 public:
  BlockQuantizer(JobContext& context, const QuantizePlan& plan, WorkFolder& work,
                 BlockStream& stream)
      : context_(context), plan_(plan), work_(work), stream_(stream), overlay_(*plan.source) {}

  // Does the unit, or, where an earlier attempt did it, takes over its codes. Afterwards the unit
  // is on disk, has been announced, and the stream stands behind it.
  absl::Status Run(int64_t unit);

 private:
  absl::Status Replay(int64_t unit);
  absl::Status Quantize(int64_t unit);
  absl::Status QuantizeHead(UnitOutput& output);
  absl::Status QuantizeBlock(int64_t layer, UnitOutput& output);
  // The linears one by one, each with what calibration saw at its input.
  absl::Status QuantizeLinears(int64_t layer, Block& block, UnitOutput& output);
  // Runs a hook of the method, again and with less memory where that is short, and keeps what it
  // reports.
  absl::Status RunHook(int64_t layer, const std::function<absl::Status(BlockJob&)>& hook);
  absl::StatusOr<LinearResult> RunMethod(const PlannedLinear& linear, InputStatistics* statistics);
  absl::StatusOr<LinearResult> RunMethodOn(at::Device device, const PlannedLinear& linear,
                                           const InputStatistics* statistics);
  // float32, a copy.
  absl::StatusOr<at::Tensor> ReadWeight(const PlannedLinear& linear, at::Device device);
  // Appends the linear's tensors and its record; where `block` is given it computes with the
  // decoded weight from now on.
  absl::Status Take(const PlannedLinear& linear, const LinearResult& result, Block* block,
                    UnitOutput& output);

  // Adds the time since the last call (or the unit's begin) to the phase's, once the device has
  // done what it was given.
  void Spent(const char* phase);

  JobContext& context_;
  const QuantizePlan& plan_;
  WorkFolder& work_;
  BlockStream& stream_;
  WeightOverlay overlay_;  // Of the unit at hand.
  std::chrono::steady_clock::time_point phase_begin_;
};

// Emits a Fallback event and keeps it in the work folder's state for the records.
void RecordFallback(JobContext& context, WorkFolder& work, absl::string_view kind,
                    absl::string_view module, absl::string_view description);

}  // namespace quantd::engine
