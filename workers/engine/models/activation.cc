// One row a name.
#include "workers/engine/models/activation.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"

namespace quantd::engine {
namespace {

at::Tensor Silu(const at::Tensor& x) { return at::silu(x); }
at::Tensor Relu(const at::Tensor& x) { return at::relu(x); }
at::Tensor Gelu(const at::Tensor& x) { return at::gelu(x, "none"); }
at::Tensor GeluTanh(const at::Tensor& x) { return at::gelu(x, "tanh"); }

struct Row {
  absl::string_view name;
  Activation activation;
};

constexpr Row kRows[] = {
    {"gelu", {Gelu, kernels::Activation::kGelu}},
    {"gelu_fast", {GeluTanh, kernels::Activation::kGeluTanh}},
    {"gelu_new", {GeluTanh, kernels::Activation::kGeluTanh}},
    {"gelu_pytorch_tanh", {GeluTanh, kernels::Activation::kGeluTanh}},
    {"relu", {Relu, kernels::Activation::kRelu}},
    {"silu", {Silu, kernels::Activation::kSilu}},
    {"swish", {Silu, kernels::Activation::kSilu}},
};

// The numbers between the beginnings of two rows, where the rows of all dimensions but the last
// follow each other at one distance; 0 where they do not.
int64_t RowStride(const at::Tensor& x) {
  if (x.dim() < 2 || x.stride(-1) != 1) return 0;
  for (int64_t d = x.dim() - 3; d >= 0; --d) {
    if (x.size(d) != 1 && x.stride(d) != x.stride(d + 1) * x.size(d + 1)) return 0;
  }
  return x.stride(-2);
}

bool HasKernel(const at::Tensor& gate, const at::Tensor& up) {
  const auto aligned = [](const at::Tensor& x) {
    return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  };
  const int64_t stride = RowStride(gate);
  return KernelsTake(gate) && KernelsTake(up) && KernelsOn(gate.device()).gate_rows != nullptr &&
         stride > 0 && stride % 8 == 0 && stride == RowStride(up) && gate.size(-1) % 8 == 0 &&
         gate.scalar_type() == up.scalar_type() && gate.sizes() == up.sizes() &&
         gate.device() == up.device() && aligned(gate) && aligned(up);
}

kernels::GateRows RowsOf(kernels::Activation kind, const at::Tensor& gate, const at::Tensor& up) {
  const int64_t columns = gate.size(-1);
  return {.rows = columns == 0 ? 0 : gate.numel() / columns,
          .columns = columns,
          .stride = RowStride(gate),
          .bfloat16 = gate.scalar_type() == at::kBFloat16,
          .activation = kind,
          .gate = SixteenBits(gate),
          .up = SixteenBits(up),
          .stream = StreamOn(gate.device())};
}

}  // namespace

at::Tensor Activation::Gate(const at::Tensor& gate, const at::Tensor& up) const {
  if (!HasKernel(gate, up)) return apply(gate).mul_(up);
  const at::Tensor output = at::empty(gate.sizes(), gate.options());
  kernels::GateRows rows = RowsOf(kind, gate, up);
  rows.output = MutableSixteenBits(output);
  KernelsOn(gate.device()).gate_rows(rows);
  return output;
}

Int8Input Activation::GateToInt8(const at::Tensor& gate, const at::Tensor& up,
                                 const InputQuantization& quantization) const {
  if (!HasKernel(gate, up)) return {};
  const Int8Input int8 = Int8Input::Like(gate);
  kernels::GateRows rows = RowsOf(kind, gate, up);
  rows.codes = int8.codes.mutable_data_ptr<int8_t>();
  rows.scales = int8.scales.mutable_data_ptr<float>();
  rows.scale = quantization.fixed_scale();
  KernelsOn(gate.device()).gate_rows(rows);
  return int8;
}

absl::StatusOr<Activation> FindActivation(absl::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.activation;
  }
  return absl::UnimplementedError(absl::StrCat(
      "hidden_act \"", name, "\" is not supported; supported: ",
      absl::StrJoin(kRows, ", ",
                    [](std::string* out, const Row& row) { absl::StrAppend(out, row.name); })));
}

}  // namespace quantd::engine
