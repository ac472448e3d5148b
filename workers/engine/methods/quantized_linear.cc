// Checks and decoding of a quantized layer through the dequantize_rows kernel.
#include "workers/engine/methods/quantized_linear.h"

#include <ATen/ops/isfinite.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/table.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/methods/tensor_spans.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

absl::Status CheckTensor(absl::string_view what, const at::Tensor& tensor, at::ScalarType dtype,
                         std::vector<int64_t> shape) {
  if (!tensor.defined() || tensor.scalar_type() != dtype || !tensor.is_contiguous() ||
      !tensor.is_cpu() || tensor.sizes().vec() != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, " is ",
        tensor.defined() ? absl::StrCat(c10::toString(tensor.scalar_type()), " ",
                                        ShapeText(tensor.sizes().vec()))
                         : "missing",
        " instead of a contiguous ", c10::toString(dtype), " ", ShapeText(shape), " on the CPU"));
  }
  return absl::OkStatus();
}

// Whether all of `values` are in [0, limit).
absl::Status CheckBelow(absl::string_view what, const at::Tensor& values, int64_t limit) {
  if (values.numel() == 0) return absl::OkStatus();
  const int64_t low = values.min().item<int64_t>();
  const int64_t high = values.max().item<int64_t>();
  if (low >= 0 && high < limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " holds values from ", low, " to ", high,
                                                 " where 0 to ", limit - 1, " is allowed"));
}

}  // namespace

absl::Status QuantizedLinear::Check() const {
  if (bits < 2 || bits > 8) {
    return absl::InvalidArgumentError(absl::StrCat("bits is ", bits, " instead of 2 to 8"));
  }
  if (!codes.defined() || codes.dim() != 2 || !scales.defined() || scales.dim() != 2) {
    return absl::InvalidArgumentError("codes and scales must be matrices");
  }
  const int64_t n = codes.size(0);
  const int64_t k = codes.size(1);
  const int64_t g = scales.size(1);
  QD_RETURN_IF_ERROR(CheckTensor("codes", codes, at::kByte, {n, k}));
  QD_RETURN_IF_ERROR(CheckTensor("scales", scales, at::kHalf, {n, g}));
  QD_RETURN_IF_ERROR(CheckTensor("zeros", zeros, at::kByte, {n, g}));
  QD_RETURN_IF_ERROR(CheckTensor("group_index", group_index, at::kInt, {k}));
  return TorchCall("checking codes", [&]() -> absl::Status {
    QD_RETURN_IF_ERROR(CheckBelow("codes", codes, int64_t{1} << bits));
    QD_RETURN_IF_ERROR(CheckBelow("zeros", zeros, int64_t{1} << bits));
    QD_RETURN_IF_ERROR(CheckBelow("group_index", group_index, g));
    if (!at::isfinite(scales).all().item<bool>()) {
      return absl::InvalidArgumentError("scales hold NaN or infinity");
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<at::Tensor> QuantizedLinear::Dequantize(at::ScalarType dtype) const {
  return TorchCall("decoding a quantized layer", [&] {
    at::Tensor weight = at::empty({outputs(), inputs()}, at::kFloat);
    kernels::Active().backend->dequantize_rows(
        {.codes = codes.const_data_ptr<uint8_t>(),
         .codes_stride = inputs(),
         .scales = HalfBits(scales),
         .zeros = zeros.const_data_ptr<uint8_t>(),
         .params_stride = groups(),
         .group_index = group_index.const_data_ptr<int32_t>(),
         .rows = outputs(),
         .columns = inputs(),
         .groups = groups(),
         .weight = weight.mutable_data_ptr<float>(),
         .weight_stride = inputs()});
    return weight.to(dtype);
  });
}

}  // namespace quantd::engine
