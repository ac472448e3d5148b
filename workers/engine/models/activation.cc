// One row a name.
#include "workers/engine/models/activation.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantd::engine {
namespace {

at::Tensor Silu(const at::Tensor& x) { return at::silu(x); }
at::Tensor Relu(const at::Tensor& x) { return at::relu(x); }
at::Tensor Gelu(const at::Tensor& x) { return at::gelu(x, "none"); }
at::Tensor GeluTanh(const at::Tensor& x) { return at::gelu(x, "tanh"); }

struct Row {
  absl::string_view name;
  Activation function;
};

constexpr Row kRows[] = {
    {"gelu", Gelu},         {"gelu_fast", GeluTanh},
    {"gelu_new", GeluTanh}, {"gelu_pytorch_tanh", GeluTanh},
    {"relu", Relu},         {"silu", Silu},
    {"swish", Silu},
};

}  // namespace

absl::StatusOr<Activation> FindActivation(absl::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.function;
  }
  return absl::UnimplementedError(absl::StrCat(
      "hidden_act \"", name, "\" is not supported; supported: ",
      absl::StrJoin(kRows, ", ",
                    [](std::string* out, const Row& row) { absl::StrAppend(out, row.name); })));
}

}  // namespace quantd::engine
