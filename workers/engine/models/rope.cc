// Frequencies in the order of operations that transformers uses, so that float32 rounds the same
// way. In 16 bits on a GPU kernels/rope_heads.h turns the heads in one pass, to the same bits.
#include "workers/engine/models/rope.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "workers/engine/tensor/kernels.h"

namespace quantd::engine {
namespace {

constexpr int64_t kTableRowsMin = 256;

bool IsLong(const RopeConfig& rope, int64_t length) {
  return length > rope.original_max_position_embeddings;
}

// theta^(2i/dim).
at::Tensor Wavelengths(double theta, int64_t dim) {
  return at::pow(theta, at::arange(0, dim, 2, at::kFloat) / dim);
}

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

// A ramp over the dimensions between those that turn beta_fast and beta_slow times in the trained
// context: fast ones are kept, slow ones stretched.
at::Tensor YarnFrequencies(const RopeConfig& rope, int64_t dim) {
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  const auto dimension_of = [&](double turns) {
    return static_cast<double>(dim) * std::log(context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = dimension_of(rope.beta_fast), high = dimension_of(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;  // No division by zero.
  const at::Tensor stretch = ((at::arange(dim / 2, at::kFloat) - low) / (high - low)).clamp(0, 1);
  const at::Tensor keep = 1 - stretch;
  const at::Tensor waves = Wavelengths(rope.theta, dim);
  return 1.0 / (rope.factor * waves) * (1 - keep) + 1.0 / waves * keep;
}

at::Tensor DynamicFrequencies(const RopeConfig& rope, int64_t dim, int64_t length) {
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  const double longest = std::max(context, static_cast<double>(length));
  const double growth = rope.factor * longest / context - (rope.factor - 1);
  const double power = static_cast<double>(dim) / static_cast<double>(dim - 2);
  return 1.0 / Wavelengths(rope.theta * std::pow(growth, power), dim);
}

at::Tensor LongRopeFrequencies(const RopeConfig& rope, int64_t dim, int64_t length) {
  const std::vector<double>& factors = IsLong(rope, length) ? rope.long_factor : rope.short_factor;
  return 1.0 / (at::tensor(factors, at::kFloat) * Wavelengths(rope.theta, dim));
}

}  // namespace

at::Tensor InverseFrequencies(const RopeConfig& rope, int64_t dim, int64_t length) {
  const at::Tensor frequencies = 1.0 / Wavelengths(rope.theta, dim);
  switch (rope.scaling) {
    case RopeScaling::kDefault:
      return frequencies;
    case RopeScaling::kLinear:
      return frequencies / rope.factor;
    case RopeScaling::kDynamic:
      return DynamicFrequencies(rope, dim, length);
    case RopeScaling::kYarn:
      return YarnFrequencies(rope, dim);
    case RopeScaling::kLongRope:
      return LongRopeFrequencies(rope, dim, length);
    case RopeScaling::kLlama3:
      return Llama3Frequencies(frequencies, rope);
  }
  return frequencies;
}

bool DependsOnLength(const RopeConfig& rope) {
  return rope.scaling == RopeScaling::kDynamic || rope.scaling == RopeScaling::kLongRope;
}

RopeTable::RopeTable(const RopeConfig& rope, int64_t dim, at::Device device, at::ScalarType dtype)
    : rope_(rope), dim_(dim), device_(device), dtype_(dtype) {
  table_.inverse_frequencies = InverseFrequencies(rope, dim);
  if (rope.scaling == RopeScaling::kLongRope) {
    long_table_.inverse_frequencies =
        InverseFrequencies(rope, dim, rope.original_max_position_embeddings + 1);
  }
}

RopeTable::Rows RopeTable::Range(int64_t first, int64_t count) {
  const int64_t length = first + count;
  if (rope_.scaling == RopeScaling::kDynamic && IsLong(rope_, length)) {
    // A base of its own for every length: a table would be used once.
    return Compute(InverseFrequencies(rope_, dim_, length), at::arange(first, length, at::kLong));
  }
  const Table& table = Grown(length);
  return {table.cos.narrow(0, first, count), table.sin.narrow(0, first, count)};
}

RopeTable::Rows RopeTable::Last(const std::vector<int64_t>& lengths, int64_t count) {
  std::vector<at::Tensor> cos, sin;
  for (const int64_t length : lengths) {
    const at::Tensor positions = at::arange(length - count, length, at::kLong).clamp_min(0);
    const Rows rows = At(positions, std::max<int64_t>(length, 1));
    cos.push_back(rows.cos);
    sin.push_back(rows.sin);
  }
  return {at::stack(cos), at::stack(sin)};
}

RopeTable::Rows RopeTable::At(const at::Tensor& positions, int64_t length) {
  if (rope_.scaling == RopeScaling::kDynamic && IsLong(rope_, length)) {
    return Compute(InverseFrequencies(rope_, dim_, length), positions);
  }
  const Table& table = Grown(length);
  const at::Tensor on_device = positions.to(device_);
  return {table.cos.index({on_device}), table.sin.index({on_device})};
}

RopeTable::Table& RopeTable::Grown(int64_t length) {
  const bool is_long = rope_.scaling == RopeScaling::kLongRope && IsLong(rope_, length);
  Table& table = is_long ? long_table_ : table_;
  const int64_t held = table.cos.defined() ? table.cos.size(0) : 0;
  if (held >= length) return table;
  const int64_t rows = std::max({length, kTableRowsMin, 2 * held});
  const Rows computed = Compute(table.inverse_frequencies, at::arange(rows, at::kLong));
  table.cos = computed.cos;
  table.sin = computed.sin;
  return table;
}

RopeTable::Rows RopeTable::Compute(const at::Tensor& inverse_frequencies,
                                   const at::Tensor& positions) const {
  const at::Tensor half = positions.to(at::kFloat).unsqueeze(1) * inverse_frequencies;
  const at::Tensor angles = at::cat({half, half}, 1);
  return {(angles.cos() * rope_.attention_factor).to(device_, dtype_),
          (angles.sin() * rope_.attention_factor).to(device_, dtype_)};
}

namespace {

bool HasKernel(const at::Tensor& x, const RopeTable::Rows& rows) {
  const int64_t turned = rows.cos.size(-1);
  const auto even = [](int64_t stride) { return stride % 2 == 0; };
  return KernelsTake(x) && KernelsOn(x.device()).rope_heads != nullptr && x.dim() == 4 &&
         x.stride(3) == 1 && even(x.stride(0)) && even(x.stride(1)) && even(x.stride(2)) &&
         x.size(3) % 4 == 0 && turned % 4 == 0 && even(x.storage_offset()) &&
         even(rows.cos.storage_offset()) && even(rows.sin.storage_offset()) &&
         rows.cos.is_contiguous() && rows.sin.is_contiguous() &&
         rows.cos.scalar_type() == x.scalar_type() && rows.cos.device() == x.device();
}

// The result lies in memory as the linears leave heads: [B, T, H, D].
at::Tensor RopeByKernel(const at::Tensor& x, const RopeTable::Rows& rows) {
  const int64_t batch = x.size(0), heads = x.size(1), tokens = x.size(2), dim = x.size(3);
  const int64_t turned = rows.cos.size(-1);
  const at::Tensor output = at::empty({batch, tokens, heads, dim}, x.options()).transpose(1, 2);
  const bool per_sequence = rows.cos.dim() == 3 && rows.cos.size(0) > 1;
  KernelsOn(x.device())
      .rope_heads({.batch = batch,
                   .heads = heads,
                   .tokens = tokens,
                   .dim = dim,
                   .turned = turned,
                   .bfloat16 = x.scalar_type() == at::kBFloat16,
                   .input = SixteenBits(x),
                   .from = {x.stride(0), x.stride(1), x.stride(2)},
                   .cos = SixteenBits(rows.cos),
                   .sin = SixteenBits(rows.sin),
                   .table_batch_stride = per_sequence ? tokens * turned : 0,
                   .output = MutableSixteenBits(output),
                   .to = {output.stride(0), output.stride(1), output.stride(2)},
                   .stream = StreamOn(x.device())});
  return output;
}

}  // namespace

at::Tensor ApplyRope(const at::Tensor& x, const RopeTable::Rows& rows) {
  if (HasKernel(x, rows)) return RopeByKernel(x, rows);
  const bool per_sequence = rows.cos.dim() == 3;
  const at::Tensor cos = per_sequence ? rows.cos.unsqueeze(1) : rows.cos;
  const at::Tensor sin = per_sequence ? rows.sin.unsqueeze(1) : rows.sin;
  const int64_t dim = cos.size(-1), half = dim / 2, rest = x.size(-1) - dim;
  const at::Tensor part = x.narrow(-1, 0, dim);
  const at::Tensor turned = at::cat({-part.narrow(-1, half, half), part.narrow(-1, 0, half)}, -1);
  const at::Tensor rotated = part * cos + turned * sin;
  return rest == 0 ? rotated : at::cat({rotated, x.narrow(-1, dim, rest)}, -1);
}

}  // namespace quantd::engine
