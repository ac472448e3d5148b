// A linear layer's weight that is multiplied with as it is stored, never widened to 16 bits.
// formats/packed_product.h makes them for kernels that the device has; this room knows only that
// they exist.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "kernels/step_product.h"
#include "workers/engine/models/linear_input.h"

namespace quantd::engine {

// Immutable; lives on the decoder's device.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  // input [..., K] in the decoder's dtype, `bias` [N] likewise or undefined -> [..., N]. Rounds the
  // input where the layer says so (Linear::input). Throws what libtorch throws.
  virtual at::Tensor Multiply(const LinearInput& input, const at::Tensor& bias) const = 0;
  // That and `residual` [..., N] added to it, rounded before and after, as a new tensor.
  virtual at::Tensor MultiplyAdd(const LinearInput& input, const at::Tensor& bias,
                                 const at::Tensor& residual) const {
    return at::add(residual, Multiply(input, bias));
  }
  // For kernels/step_product.h: kind, rows, data and what belongs to that kind, alive as long as
  // this. None where its inputs need more than that kernel does to them.
  virtual std::optional<kernels::StepWeight> ForStep() const { return std::nullopt; }
  virtual int64_t size_bytes() const = 0;
  // "w4a16": for records.
  virtual absl::string_view kernel() const = 0;
};

}  // namespace quantd::engine
