// The activation functions of MLPs by the names that config.json uses.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/activation.h"
#include "workers/engine/models/input_quantization.h"

namespace quantd::engine {

struct Activation {
  at::Tensor (*apply)(const at::Tensor& x) = nullptr;
  kernels::Activation kind = kernels::Activation::kNone;  // The same function in our own kernels.

  // f(gate) * up, of equal shapes [..., N]; f(gate) is rounded to the inputs' type first, as
  // transformers does. In 16 bits on a GPU kernels/gate_rows.h does it in one pass. Throws what
  // libtorch throws.
  at::Tensor Gate(const at::Tensor& gate, const at::Tensor& up) const;
  // What QuantizeInput makes of that, the same bits, in one pass; nothing where no kernel does so.
  Int8Input GateToInt8(const at::Tensor& gate, const at::Tensor& up,
                       const InputQuantization& quantization) const;
};

// Unimplemented names the known ones.
absl::StatusOr<Activation> FindActivation(absl::string_view name);

}  // namespace quantd::engine
