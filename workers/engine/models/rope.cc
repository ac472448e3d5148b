// Frequencies in the order of operations that transformers uses, so that float32 rounds the same
// way.
#include "workers/engine/models/rope.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <numbers>

namespace quantd::engine {
namespace {

constexpr int64_t kTableRowsMin = 256;

// Long waves are stretched, short ones kept, those between blended (Llama 3.1).
at::Tensor Llama3Frequencies(const at::Tensor& frequencies, const RopeConfig& rope) {
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  const double long_wave = context / rope.low_freq_factor;
  const double short_wave = context / rope.high_freq_factor;
  const at::Tensor wave = 2 * std::numbers::pi / frequencies;
  const at::Tensor stretched = at::where(wave > long_wave, frequencies / rope.factor, frequencies);
  const at::Tensor smooth =
      (context / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor blended = (1 - smooth) * stretched / rope.factor + smooth * stretched;
  const at::Tensor between = (wave < short_wave).logical_not() * (wave > long_wave).logical_not();
  return at::where(between, blended, stretched);
}

}  // namespace

at::Tensor InverseFrequencies(const RopeConfig& rope, int64_t head_dim) {
  const at::Tensor exponents = at::arange(0, head_dim, 2, at::kFloat) / head_dim;
  const at::Tensor frequencies = 1.0 / at::pow(rope.theta, exponents);
  switch (rope.scaling) {
    case RopeScaling::kDefault:
      return frequencies;
    case RopeScaling::kLinear:
      return frequencies / rope.factor;
    case RopeScaling::kLlama3:
      return Llama3Frequencies(frequencies, rope);
  }
  return frequencies;
}

RopeTable::RopeTable(const RopeConfig& rope, int64_t head_dim, at::Device device,
                     at::ScalarType dtype)
    : inverse_frequencies_(InverseFrequencies(rope, head_dim)), device_(device), dtype_(dtype) {}

RopeTable::Rows RopeTable::Range(int64_t first, int64_t count) {
  Grow(first + count);
  return {cos_.narrow(0, first, count), sin_.narrow(0, first, count)};
}

RopeTable::Rows RopeTable::Pick(const at::Tensor& positions, int64_t limit) {
  Grow(limit);
  const at::Tensor on_device = positions.to(device_);
  return {cos_.index({on_device}), sin_.index({on_device})};
}

void RopeTable::Grow(int64_t count) {
  if (cos_.defined() && cos_.size(0) >= count) return;
  const int64_t rows =
      std::max({count, kTableRowsMin, cos_.defined() ? 2 * cos_.size(0) : int64_t{0}});
  const at::Tensor positions = at::arange(rows, at::kFloat);
  const at::Tensor half = positions.unsqueeze(1) * inverse_frequencies_;
  const at::Tensor angles = at::cat({half, half}, 1);
  cos_ = angles.cos().to(device_, dtype_);
  sin_ = angles.sin().to(device_, dtype_);
}

at::Tensor ApplyRope(const at::Tensor& x, const RopeTable::Rows& rows) {
  const bool per_sequence = rows.cos.dim() == 3;
  const at::Tensor cos = per_sequence ? rows.cos.unsqueeze(1) : rows.cos;
  const at::Tensor sin = per_sequence ? rows.sin.unsqueeze(1) : rows.sin;
  const int64_t half = x.size(-1) / 2;
  const at::Tensor turned = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
  return x * cos + turned * sin;
}

}  // namespace quantd::engine
