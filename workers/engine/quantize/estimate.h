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
  int64_t kept_bytes = 0;            // The same inside a block, where they are kept; else 0.
  int64_t batch_bytes = 0;           // One batch inside a block.
  int64_t WithoutActivations() const;
};
MemoryParts EstimateMemory(const QuantizePlan& plan, int64_t batch_size);

QuantizeEstimate EstimatePlan(const QuantizePlan& plan, int64_t batch_size);

// ResourceExhausted, with what is needed and what there is, when the promised host or device memory
// or the disk behind work and output folder is too small.
absl::Status CheckResources(const JobContext& context, const QuantizePlan& plan,
                            int64_t batch_size);

// Memory that activations may take under the promise (or of what the machine has), beside what
// there must be.
struct ActivationBudget {
  int64_t host_bytes = 0;
  int64_t device_bytes = 0;  // Of each GPU; 0 on a CPU.
};
absl::StatusOr<ActivationBudget> BudgetActivations(const Runtime& runtime, const QuantizePlan& plan,
                                                   int64_t batch_size);

}  // namespace quantd::engine
