// Quantizes one block (or the head) after another and keeps the stream in step, so that what
// follows sees what the written model will compute.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/quantize/linear_parts.h"
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
  // A linear's result as the format stores it.
  struct Done {
    LinearResult result;
    std::vector<NamedTensor> packed;
    size_t device = 0;  // Whose block computes with it.
  };
  // What one device spends on its linears.
  struct Clock;

  absl::Status Replay(int64_t unit);
  absl::Status Quantize(int64_t unit);
  absl::Status QuantizeHead(UnitOutput& output);
  absl::Status QuantizeBlock(int64_t layer, UnitOutput& output);
  // The linears one by one, each with what calibration saw at its input.
  absl::Status QuantizeLinears(int64_t layer, Replicas& block, UnitOutput& output);
  // These, shared out between the devices; statistics by device, empty: none.
  absl::Status QuantizeSome(const std::vector<const PlannedLinear*>& linears,
                            std::vector<std::map<int, InputStatistics>>& statistics,
                            Replicas& block, UnitOutput& output);
  // Runs a hook of the method, again and with less memory where that is short, and keeps what it
  // reports.
  absl::Status RunHook(int64_t layer, const std::function<absl::Status(BlockJob&)>& hook);
  // On one of the stream's devices. Thread-safe, as long as each has its own statistics.
  absl::StatusOr<LinearResult> RunMethod(const PlannedLinear& linear, const LinearPart& part,
                                         at::Device device, InputStatistics* statistics);
  absl::StatusOr<LinearResult> RunMethodOn(at::Device device, const PlannedLinear& linear,
                                           const LinearPart& part,
                                           const InputStatistics* statistics);
  // float32, a copy.
  absl::StatusOr<at::Tensor> ReadWeight(const PlannedLinear& linear, const LinearPart& part,
                                        at::Device device);
  // Packs the result; `block` (may be null) computes with the decoded weight from now on.
  // Thread-safe, as long as each has its own block.
  absl::StatusOr<Done> Pack(const PlannedLinear& linear, LinearResult result, Block* block);
  // Appends the linear's tensors and its record.
  void Take(const PlannedLinear& linear, Done done, UnitOutput& output);
  // Gives the weight that one device's block computes with to all others'.
  absl::Status Share(const PlannedLinear& linear, size_t from, Replicas& block);

  // Adds the time since the last call (or the unit's begin) to the phase's, once the devices have
  // done what they were given.
  void Spent(const char* phase);
  void Add(const char* phase, double seconds);

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
