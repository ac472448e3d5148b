// See common.h.
#include "workers/engine/methods/common.h"

#include <ATen/ops/floor_divide.h>
#include <ATen/ops/isfinite.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/methods/tensor_spans.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {

std::vector<OptionInfo> IntegerOptions() {
  return {
      {.name = "bits",
       .type = OptionType::kInt,
       .default_value = 4,
       .allowed = {2, 3, 4, 8},
       .minimum = {},
       .maximum = {},
       .help = "Bits a weight."},
      {.name = "group_size",
       .type = OptionType::kInt,
       .default_value = 128,
       .allowed = {-1, 32, 64, 128},
       .minimum = {},
       .maximum = {},
       .help = "Input columns that share a scale; -1: all of them."},
      {.name = "sym",
       .type = OptionType::kBool,
       .default_value = true,
       .allowed = {},
       .minimum = {},
       .maximum = {},
       .help = "Symmetric around zero. Asymmetric is better at 2 and 3 bits, but some fast kernels "
               "want symmetric."},
      {.name = "quantize_head",
       .type = OptionType::kBool,
       .default_value = false,
       .allowed = {},
       .minimum = {},
       .maximum = {},
       .help = "Quantize lm_head too. Refused for models whose head is tied to the embedding."},
  };
}

IntegerScheme SchemeOf(const nlohmann::json& options, int64_t inputs) {
  const int64_t group_size = options.at("group_size").get<int64_t>();
  return {.bits = options.at("bits").get<int>(),
          .group_size = group_size,
          .group_columns = group_size == -1 ? inputs : group_size,
          .symmetric = options.at("sym").get<bool>()};
}

absl::Status CheckFinite(absl::string_view what, const at::Tensor& tensor) {
  // Minimum and maximum carry NaN along and need no second tensor.
  if (std::isfinite(tensor.min().item<double>()) && std::isfinite(tensor.max().item<double>())) {
    return absl::OkStatus();
  }
  const at::Tensor bad = at::isfinite(tensor).logical_not();
  const int64_t count = bad.sum().item<int64_t>();
  const int64_t place = bad.flatten().to(at::kByte).argmax().item<int64_t>();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " holds ", count, " values that are NaN or infinite, the first at row ",
                   place / tensor.size(-1), ", column ", place % tensor.size(-1),
                   "; the checkpoint (or the precision it is run in) is damaged there"));
}

WorkPlace PlaceFor(const at::Tensor& weight) {
  const kernels::Backend* on_device = weight.is_cuda() ? kernels::ActiveOnDevice() : nullptr;
  if (on_device != nullptr) return {weight.device(), on_device};
  return HostPlace();
}

WorkPlace HostPlace() { return {at::kCPU, kernels::Active().backend}; }

absl::Status WorkPlace::Finish() const {
  if (device.is_cpu()) return absl::OkStatus();
  const std::string error = kernels::LoadCudaModule(nullptr)->device.take_error(nullptr);
  if (error.empty()) return absl::OkStatus();
  return WithErrorClass(absl::InternalError(absl::StrCat("a quantizer's kernel failed on ",
                                                         device.str(), ": ", error)),
                        ErrorClass::kDeviceFault);
}

QuantizedLinear EmptyLinear(const IntegerScheme& scheme, int64_t outputs, int64_t inputs,
                            const WorkPlace& place) {
  const int64_t groups = inputs / scheme.group_columns;
  const auto options = at::TensorOptions(place.device);
  return {.bits = scheme.bits,
          .group_size = scheme.group_size,
          .symmetric = scheme.symmetric,
          .codes = at::empty({outputs, inputs}, options.dtype(at::kByte)),
          .scales = at::empty({outputs, groups}, options.dtype(at::kHalf)),
          .zeros = at::empty({outputs, groups}, options.dtype(at::kByte)),
          .group_index =
              at::floor_divide(at::arange(inputs, options.dtype(at::kInt)), scheme.group_columns)
                  .to(at::kInt)};
}

void MoveToHost(QuantizedLinear& linear) {
  for (at::Tensor* tensor : {&linear.codes, &linear.scales, &linear.zeros, &linear.group_index}) {
    *tensor = tensor->to(at::kCPU).contiguous();
  }
}

const float* ScaleSearch::Weights(int64_t begin) const {
  return column_weights.defined() ? column_weights.const_data_ptr<float>() + begin : nullptr;
}

void FindScales(const at::Tensor& weight, const IntegerScheme& scheme, const ScaleSearch& search,
                QuantizedLinear& linear, const WorkPlace& place) {
  place.kernels->find_params({.weight = weight.const_data_ptr<float>(),
                              .weight_stride = weight.size(1),
                              .rows = weight.size(0),
                              .columns = weight.size(1),
                              .group_columns = scheme.group_columns,
                              .bits = scheme.bits,
                              .symmetric = scheme.symmetric,
                              .search_steps = search.steps,
                              .column_weights = search.Weights(0),
                              .scales = MutableHalfBits(linear.scales),
                              .zeros = linear.zeros.mutable_data_ptr<uint8_t>(),
                              .params_stride = linear.groups()});
}

void RoundToNearest(const at::Tensor& weight, const IntegerScheme& scheme, QuantizedLinear& linear,
                    const WorkPlace& place) {
  FindScales(weight, scheme, {}, linear, place);
  place.kernels->rtn_rows({.weight = weight.const_data_ptr<float>(),
                           .weight_stride = weight.size(1),
                           .rows = weight.size(0),
                           .columns = weight.size(1),
                           .group_columns = scheme.group_columns,
                           .bits = scheme.bits,
                           .scales = HalfBits(linear.scales),
                           .zeros = linear.zeros.const_data_ptr<uint8_t>(),
                           .params_stride = linear.groups(),
                           .codes = linear.codes.mutable_data_ptr<uint8_t>(),
                           .codes_stride = weight.size(1)});
}

}  // namespace quantd::engine
