// Quantizes one block (or the head) after another and keeps the stream in step, so that what
// follows sees what the written model will compute.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"
#include "workers/engine/quantize/plan.h"
#include "workers/engine/quantize/stream.h"
#include "workers/engine/quantize/work_folder.h"

namespace quantd::engine {

// Not thread-safe. All references must outlive it.
class BlockQuantizer {
 public:
  BlockQuantizer(JobContext& context, const QuantizePlan& plan, WorkFolder& work,
                 BlockStream& stream)
      : context_(context), plan_(plan), work_(work), stream_(stream) {}

  // Does the unit, or, where an earlier attempt did it, takes over its codes. Afterwards the unit
  // is on disk, has been announced, and the stream stands behind it.
  absl::Status Run(int64_t unit);

 private:
  absl::Status Replay(int64_t unit);
  absl::Status Quantize(int64_t unit);
  absl::StatusOr<std::vector<NamedTensor>> QuantizeBlock(int64_t layer, Block& block,
                                                         nlohmann::json& records);
  // Quantizes one linear; appends its tensors and its record, and returns its decoded weight.
  absl::StatusOr<at::Tensor> QuantizeLinear(const PlannedLinear& linear,
                                            InputStatistics* statistics,
                                            std::vector<NamedTensor>& tensors,
                                            nlohmann::json& records);
  absl::StatusOr<LinearResult> RunMethod(const PlannedLinear& linear, InputStatistics* statistics);

  JobContext& context_;
  const QuantizePlan& plan_;
  WorkFolder& work_;
  BlockStream& stream_;
};

// Emits a Fallback event and keeps it in the work folder's state for the records.
void RecordFallback(JobContext& context, WorkFolder& work, absl::string_view kind,
                    absl::string_view module, absl::string_view description);

}  // namespace quantd::engine
