// Rotary position embedding in float32: frequencies with the default, linear and llama3 scalings,
// and a table of cosines and sines that grows by doubling. Computed on the CPU for every device, so
// that all devices agree.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "workers/engine/checkpoint/config.h"

namespace quantd::engine {

// Inverse frequencies, float32 [head_dim / 2] on the CPU.
at::Tensor InverseFrequencies(const RopeConfig& rope, int64_t head_dim);

// Not thread-safe. Methods throw what libtorch throws.
class RopeTable {
 public:
  RopeTable() = default;
  RopeTable(const RopeConfig& rope, int64_t head_dim, at::Device device, at::ScalarType dtype);

  struct Rows {
    at::Tensor cos;  // [..., head_dim], the table's device and dtype.
    at::Tensor sin;
  };
  // Positions first, ..., first + count - 1: [count, head_dim].
  Rows Range(int64_t first, int64_t count);
  // positions int64 [B, T], all below `limit`: [B, T, head_dim].
  Rows Pick(const at::Tensor& positions, int64_t limit);

 private:
  void Grow(int64_t count);
  at::Tensor inverse_frequencies_, cos_, sin_;
  at::Device device_ = at::kCPU;
  at::ScalarType dtype_ = at::kFloat;
};

// x [B, heads, T, head_dim] turned by rows [T, head_dim] or [B, T, head_dim].
at::Tensor ApplyRope(const at::Tensor& x, const RopeTable::Rows& rows);

}  // namespace quantd::engine
