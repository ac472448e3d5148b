// Sums over what several devices hold, one tensor each: NCCL between GPUs, copies between anything
// else. Called by one thread for all devices, once their work that makes the tensors has been
// issued; results are ordered behind it on each device's current stream.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quantd::engine {

// Equal tensors on every device afterwards, bit for bit; the same bits each time for a number of
// devices. Not thread-safe.
class Collective {
 public:
  enum class Operation { kSum, kMax };
  virtual ~Collective() = default;
  // `parts`: float32, contiguous, of one shape, on the devices in their order; each is replaced by
  // the sum (the largest) over all.
  virtual absl::Status Reduce(Operation operation, absl::Span<const at::Tensor> parts) = 0;
};

// Adds up on the first device in the devices' order and copies the result to the others. The slow,
// obvious one.
std::unique_ptr<Collective> CopyingCollective();
// NCCL of one process. FailedPrecondition: its library is missing or does not start.
absl::StatusOr<std::unique_ptr<Collective>> NcclCollective(absl::Span<const at::Device> gpus);

}  // namespace quantd::engine
