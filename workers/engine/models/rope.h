// Rotary position embedding in float32, with the scalings that stretch a model's context, and a
// table of cosines and sines that grows by doubling. Computed on the CPU for every device, so that
// all devices agree.
//
// default        f_i = theta^(-2i/d) for the pairs i of the d rotated dimensions
// linear         f_i / factor
// llama3         long waves / factor, short ones as they are, blended between
// yarn           the same by dimension instead of wavelength (arXiv 2309.00071)
// dynamic        theta grows with the sequence, once it is longer than the model was trained for
// longrope       f_i / short_factor_i, or / long_factor_i for such a sequence (arXiv 2402.13753)
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "workers/engine/checkpoint/config.h"

namespace quantd::engine {

// Inverse frequencies of a sequence of that length, float32 [dim / 2] on the CPU.
at::Tensor InverseFrequencies(const RopeConfig& rope, int64_t dim, int64_t length = 0);

// Whether the frequencies at position 0 depend on how long the sequence is.
bool DependsOnLength(const RopeConfig& rope);

// Not thread-safe. Methods throw what libtorch throws.
class RopeTable {
 public:
  RopeTable() = default;
  // `dim` dimensions of a head are rotated.
  RopeTable(const RopeConfig& rope, int64_t dim, at::Device device, at::ScalarType dtype);

  struct Rows {
    at::Tensor cos;  // [T, dim], or [B, T, dim] when sequences start at different positions.
    at::Tensor sin;
  };
  // Positions first, ..., first + count - 1 of sequences that end there: [count, dim].
  Rows Range(int64_t first, int64_t count);
  // The last `count` positions of sequences of these lengths, as [B, count, dim]; positions before
  // a sequence's beginning give the row of its first one.
  Rows Last(const std::vector<int64_t>& lengths, int64_t count);
  // `positions` int64 [n], each below length, of a sequence of that length: [n, dim]. Where
  // frequencies do not depend on the length: of any shape, and sequences of at most that length.
  Rows At(const at::Tensor& positions, int64_t length);

 private:
  // A table for one set of frequencies.
  struct Table {
    at::Tensor inverse_frequencies, cos, sin;
  };
  Rows Compute(const at::Tensor& inverse_frequencies, const at::Tensor& positions) const;
  // The table for a sequence of that length, grown to hold it.
  Table& Grown(int64_t length);

  RopeConfig rope_;
  int64_t dim_ = 0;
  at::Device device_ = at::kCPU;
  at::ScalarType dtype_ = at::kFloat;
  Table table_, long_table_;
};

// x [B, heads, T, head_dim], its first dimensions turned by rows [T, dim] or [B, T, dim].
at::Tensor ApplyRope(const at::Tensor& x, const RopeTable::Rows& rows);

}  // namespace quantd::engine
