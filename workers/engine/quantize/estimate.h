// What a planned job will take: memory, disk and time, from shapes and a short measurement of this
// machine.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/quantize/plan.h"
#include "workers/engine/quantize/quantize_job.h"

namespace quantd::engine {

// Where the estimate's host memory goes, for messages.
struct MemoryParts {
  int64_t libraries_bytes = 0;
  int64_t outside_blocks_bytes = 0;  // Embedding, head, norms.
  int64_t block_bytes = 0;           // One block, and the linear at hand in float32.
  int64_t statistics_bytes = 0;      // Hessians and their factors.
  int64_t activations_bytes = 0;     // All calibration sequences between two blocks.
  int64_t batch_bytes = 0;           // One batch inside a block.
  int64_t WithoutActivations() const;
};
MemoryParts EstimateMemory(const QuantizePlan& plan, int64_t batch_size);

QuantizeEstimate EstimatePlan(const QuantizePlan& plan, int64_t batch_size);

// ResourceExhausted, with what is needed and what there is, when the promised host or device memory
// or the disk behind work and output folder is too small.
absl::Status CheckResources(const JobContext& context, const QuantizePlan& plan,
                            int64_t batch_size);

// Host memory that activations may take under the promise (or what the machine has); more go into a
// file.
int64_t ActivationBudget(const Runtime& runtime, const QuantizePlan& plan, int64_t batch_size);

}  // namespace quantd::engine
