// The order of casts is that of transformers: Llama rounds before it multiplies, Gemma after. In 16
// bits on a GPU kernels/norm_rows.h does it in one pass.
#include "workers/engine/models/norm.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rsqrt.h>

#include <cstdint>

#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"

namespace quantd::engine {
namespace {

bool IsAligned(const at::Tensor& tensor) {
  constexpr uintptr_t kBytes = 16;
  return tensor.is_contiguous() &&
         reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kBytes == 0;
}

bool HasKernel(const at::Tensor& x, const at::Tensor& weight) {
  return KernelsTake(x) && KernelsOn(x.device()).norm_rows != nullptr && x.size(-1) % 8 == 0 &&
         IsAligned(x) && IsAligned(weight) && weight.scalar_type() == x.scalar_type() &&
         weight.device() == x.device() && !weight.requires_grad();
}

kernels::NormRows RowsOf(const at::Tensor& x, const at::Tensor& weight, NormKind kind, double eps) {
  const int64_t columns = x.size(-1);
  return {.rows = columns == 0 ? 0 : x.numel() / columns,
          .columns = columns,
          .bfloat16 = x.scalar_type() == at::kBFloat16,
          .plus_one = kind == NormKind::kRmsPlusOne,
          .eps = static_cast<float>(eps),
          .input = SixteenBits(x),
          .weight = SixteenBits(weight),
          .stream = StreamOn(x.device())};
}

}  // namespace

at::Tensor ApplyNorm(const at::Tensor& x, const Linear& norm, NormKind kind, double eps) {
  if (kind == NormKind::kLayer) {
    return at::layer_norm(x, {x.size(-1)}, norm.weight, norm.bias, eps);
  }
  if (HasKernel(x, norm.weight)) {
    const at::Tensor output = at::empty_like(x);
    kernels::NormRows rows = RowsOf(x, norm.weight, kind, eps);
    rows.output = MutableSixteenBits(output);
    KernelsOn(x.device()).norm_rows(rows);
    return output;
  }
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scaled = wide * at::rsqrt(wide.pow(2).mean(-1, /*keepdim=*/true) + eps);
  if (kind == NormKind::kRms) return norm.weight * scaled.to(x.scalar_type());
  return (scaled * (norm.weight.to(at::kFloat) + 1.0)).to(x.scalar_type());
}

Int8Input NormToInt8(const at::Tensor& x, const Linear& norm, NormKind kind, double eps,
                     const InputQuantization& quantization) {
  if (kind == NormKind::kLayer || !HasKernel(x, norm.weight)) return {};
  const Int8Input int8 = Int8Input::Like(x);
  kernels::NormRows rows = RowsOf(x, norm.weight, kind, eps);
  rows.codes = int8.codes.mutable_data_ptr<int8_t>();
  rows.scales = int8.scales.mutable_data_ptr<float>();
  rows.scale = quantization.fixed_scale();
  KernelsOn(x.device()).norm_rows(rows);
  return int8;
}

}  // namespace quantd::engine
