// One row a name.
#include "workers/engine/models/activation.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

at::Tensor Silu(const at::Tensor& x) { return at::silu(x); }
at::Tensor Relu(const at::Tensor& x) { return at::relu(x); }
at::Tensor Gelu(const at::Tensor& x) { return at::gelu(x, "none"); }
at::Tensor GeluTanh(const at::Tensor& x) { return at::gelu(x, "tanh"); }

using kernels::StepActivation;

struct Row {
  absl::string_view name;
  Activation function;
  StepActivation step;
};

constexpr Row kRows[] = {
    {"gelu", Gelu, StepActivation::kGelu},
    {"gelu_fast", GeluTanh, StepActivation::kGeluTanh},
    {"gelu_new", GeluTanh, StepActivation::kGeluTanh},
    {"gelu_pytorch_tanh", GeluTanh, StepActivation::kGeluTanh},
    {"relu", Relu, StepActivation::kRelu},
    {"silu", Silu, StepActivation::kSilu},
    {"swish", Silu, StepActivation::kSilu},
};

absl::StatusOr<const Row*> Find(absl::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return &row;
  }
  return absl::UnimplementedError(absl::StrCat(
      "hidden_act \"", name, "\" is not supported; supported: ",
      absl::StrJoin(kRows, ", ",
                    [](std::string* out, const Row& row) { absl::StrAppend(out, row.name); })));
}

}  // namespace

absl::StatusOr<Activation> FindActivation(absl::string_view name) {
  QD_ASSIGN_OR_RETURN(const Row* row, Find(name));
  return row->function;
}

absl::StatusOr<StepActivation> FindStepActivation(absl::string_view name) {
  QD_ASSIGN_OR_RETURN(const Row* row, Find(name));
  return row->step;
}

}  // namespace quantd::engine
