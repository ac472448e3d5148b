// The quantize job: a checkpoint in, a quantized checkpoint out, block by block, so that memory is
// bounded by one decoder block and the calibration activations. Every finished block is on disk; a
// killed job goes on from there to the same bytes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"

namespace quantd::engine {

struct JobContext;
struct QuantizeSpec;

// Writes the checkpoint into context.output_dir; context.work_dir holds (and may already hold) the
// per-block checkpoint. Returns the result's values (keys: docs of the engine contract). Everything
// that can be refused is refused before any work: unknown methods and options, shapes, groups, disk
// and memory.
absl::StatusOr<nlohmann::json> RunQuantize(JobContext& context, const QuantizeSpec& spec);

struct QuantizeEstimate {
  int64_t host_memory_bytes = 0;
  int64_t device_memory_bytes = 0;  // Of each GPU; 0 on a CPU.
  int64_t disk_bytes = 0;           // Work and output folders together.
  double seconds = 0;
};

// From the checkpoint's shapes and a short measurement (well under a second) of this machine's
// matmul rate.
absl::StatusOr<QuantizeEstimate> EstimateQuantize(JobContext& context, const QuantizeSpec& spec);

}  // namespace quantd::engine
