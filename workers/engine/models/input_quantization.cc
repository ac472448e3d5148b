// See input_quantization.h. Halves go to even, as torch.round does; a token of zeros keeps a tiny
// scale instead of none.
#include "workers/engine/models/input_quantization.h"

#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

constexpr double kLevels = 127;
constexpr double kSmallestScale = 1e-7;

at::Tensor Round(const at::Tensor& wide, const at::Tensor& scale) {
  return (wide / scale).round().clamp(-kLevels - 1, kLevels) * scale;
}

at::Tensor TokenScale(const at::Tensor& wide) {
  return (wide.abs().amax(-1, /*keepdim=*/true) / kLevels).clamp_min(kSmallestScale);
}

}  // namespace

absl::string_view InputKindName(InputKind kind) {
  switch (kind) {
    case InputKind::kFloat:
      return "float";
    case InputKind::kInt8PerToken:
      return "int8_token";
    case InputKind::kInt8PerTensor:
      return "int8_tensor";
    case InputKind::kLlmInt8:
      return "llm_int8";
  }
  return "";
}

at::Tensor RoundInput(const at::Tensor& input, const InputQuantization& quantization) {
  if (quantization.kind == InputKind::kFloat) return input;
  const at::Tensor wide = input.to(at::kFloat);
  at::Tensor rounded;
  if (quantization.kind == InputKind::kInt8PerToken) {
    rounded = Round(wide, TokenScale(wide));
  } else if (quantization.kind == InputKind::kInt8PerTensor) {
    const double scale = quantization.scale;
    rounded = (wide / scale).round().clamp(-kLevels - 1, kLevels) * scale;
  } else {
    // A column is an outlier for the whole call, as in bitsandbytes.
    at::Tensor outlier = at::zeros({wide.size(-1)}, wide.options().dtype(at::kBool));
    if (quantization.outlier_threshold > 0) {
      outlier = wide.reshape({-1, wide.size(-1)}).abs().amax(0) > quantization.outlier_threshold;
    }
    const at::Tensor rest = wide.masked_fill(outlier, 0);
    rounded = at::where(outlier, wide, Round(rest, TokenScale(rest)));
  }
  return rounded.to(input.scalar_type());
}

}  // namespace quantd::engine
