// See input_quantization.h. Halves go to even, as torch.round does; a token of zeros keeps a tiny
// scale instead of none. A GPU's kernel (kernels/quantize_rows.h) rounds tokens in one pass, by the
// rule that the product of int8 with int8 follows there, too.
#include "workers/engine/models/input_quantization.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <vector>

#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"

namespace quantd::engine {
namespace {

constexpr double kLevels8 = 127;
constexpr double kLevels4 = 7;
constexpr double kSmallestScale = 1e-7;

// By a scale for each token.
at::Tensor RoundTokens(const at::Tensor& wide, double levels) {
  const at::Tensor scale =
      (wide.abs().amax(-1, /*keepdim=*/true) / levels).clamp_min(kSmallestScale);
  return (wide / scale).round().clamp(-levels - 1, levels) * scale;
}

kernels::QuantizeRows RowsOf(const at::Tensor& held) {
  const int64_t columns = held.size(-1);
  return {.rows = columns == 0 ? 0 : held.numel() / columns,
          .columns = columns,
          .bfloat16 = held.scalar_type() == at::kBFloat16,
          .input = SixteenBits(held),
          .stream = StreamOn(held.device())};
}

// Undefined where no kernel takes it.
at::Tensor RoundTokensByKernel(const at::Tensor& input) {
  if (!KernelsTake(input) || KernelsOn(input.device()).quantize_rows == nullptr ||
      input.size(-1) % 8 != 0) {
    return {};
  }
  const at::Tensor held = input.contiguous();
  const at::Tensor rounded = at::empty_like(held);
  kernels::QuantizeRows rows = RowsOf(held);
  rows.rounded = MutableSixteenBits(rounded);
  KernelsOn(held.device()).quantize_rows(rows);
  return rounded;
}

}  // namespace

Int8Input Int8Input::Like(const at::Tensor& values) {
  const std::vector<int64_t> tokens(values.sizes().begin(), values.sizes().end() - 1);
  return {at::empty(values.sizes(), values.options().dtype(at::kChar)),
          at::empty(tokens, values.options().dtype(at::kFloat))};
}

Int8Input QuantizeInput(const at::Tensor& input, const InputQuantization& quantization) {
  const at::Tensor held = input.contiguous();
  const Int8Input int8 = Int8Input::Like(held);
  kernels::QuantizeRows rows = RowsOf(held);
  rows.codes = int8.codes.mutable_data_ptr<int8_t>();
  rows.scales = int8.scales.mutable_data_ptr<float>();
  rows.scale = quantization.fixed_scale();
  KernelsOn(held.device()).quantize_rows(rows);
  return int8;
}

absl::string_view InputKindName(InputKind kind) {
  switch (kind) {
    case InputKind::kFloat:
      return "float";
    case InputKind::kInt8PerToken:
      return "int8_token";
    case InputKind::kInt8PerTensor:
      return "int8_tensor";
    case InputKind::kInt4PerToken:
      return "int4_token";
    case InputKind::kLlmInt8:
      return "llm_int8";
  }
  return "";
}

at::Tensor RoundInput(const at::Tensor& input, const InputQuantization& quantization) {
  if (quantization.kind == InputKind::kFloat) return input;
  at::Tensor rounded;
  if (quantization.kind == InputKind::kInt8PerToken) {
    rounded = RoundTokensByKernel(input);
    if (rounded.defined()) return rounded;
  }
  const at::Tensor wide = input.to(at::kFloat);
  if (quantization.kind == InputKind::kInt8PerToken) {
    rounded = RoundTokens(wide, kLevels8);
  } else if (quantization.kind == InputKind::kInt4PerToken) {
    rounded = RoundTokens(wide, kLevels4);
  } else if (quantization.kind == InputKind::kInt8PerTensor) {
    const double scale = quantization.scale;
    rounded = (wide / scale).round().clamp(-kLevels8 - 1, kLevels8) * scale;
  } else {
    // A column is an outlier for the whole call, as in bitsandbytes.
    at::Tensor outlier = at::zeros({wide.size(-1)}, wide.options().dtype(at::kBool));
    if (quantization.outlier_threshold > 0) {
      outlier = wide.reshape({-1, wide.size(-1)}).abs().amax(0) > quantization.outlier_threshold;
    }
    const at::Tensor rest = wide.masked_fill(outlier, 0);
    rounded = at::where(outlier, wide, RoundTokens(rest, kLevels8));
  }
  return rounded.to(input.scalar_type());
}

}  // namespace quantd::engine
