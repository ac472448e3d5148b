// How a method rounds a layer's weight once everything else is decided, for searches that try
// roundings: integers with a scale a group, or blocks of a GGUF type.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"

namespace quantd::engine {

struct Rounder {
  int64_t group_columns = 0;  // Columns that share a scale.
  bool on_device = false;     // `round` takes weights on the job's device, not only the CPU's.
  // `weight` float32 [N, K], contiguous -> as it comes back from its codes, where it was.
  std::function<absl::StatusOr<at::Tensor>(const at::Tensor& weight)> round;
};

// By the option `type` (a block type), else by bits, group_size and sym.
Rounder RounderOf(const nlohmann::json& options, int64_t inputs);

}  // namespace quantd::engine
