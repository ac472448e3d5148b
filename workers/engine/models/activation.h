// The activation functions of MLPs by the names that config.json uses.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/step_product.h"

namespace quantd::engine {

using Activation = at::Tensor (*)(const at::Tensor&);

// Unimplemented names the known ones.
absl::StatusOr<Activation> FindActivation(absl::string_view name);
// The same function in our own kernels.
absl::StatusOr<kernels::StepActivation> FindStepActivation(absl::string_view name);

}  // namespace quantd::engine
