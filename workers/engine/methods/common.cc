// See common.h.
#include "workers/engine/methods/common.h"

#include <ATen/ops/isfinite.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/tensor_spans.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"

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
       .help = "Quantize lm_head too. Refused for models whose head is tied to the embedding.",
       .whole_job = true},
  };
}

std::vector<std::string> IntegerFormats() {
  return {"gptq", "gptq_v2", "awq", "compressed-tensors", "gguf", "hf", "pytorch"};
}

IntegerScheme IntegerSchemeOf(const nlohmann::json& options, int64_t inputs) {
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

QuantizedLinear EmptyLinear(const IntegerScheme& scheme, int64_t outputs, int64_t inputs,
                            at::Device device) {
  const int64_t groups = inputs / scheme.group_columns;
  const auto empty = [&](int64_t columns, at::ScalarType dtype) {
    return at::empty({outputs, columns}, at::TensorOptions().dtype(dtype).device(device));
  };
  return {.bits = scheme.bits,
          .group_size = scheme.group_size,
          .symmetric = scheme.symmetric,
          .codes = empty(inputs, at::kByte),
          .scales = empty(groups, at::kHalf),
          .zeros = empty(groups, at::kByte),
          .group_index = OrderedGroups(inputs, scheme.group_columns).to(device)};
}

absl::StatusOr<LinearResult> WithRoundingLoss(QuantizedWeight linear, const at::Tensor& weight) {
  QD_ASSIGN_OR_RETURN(const at::Tensor decoded, Dequantize(linear, at::kFloat));
  LinearResult result;
  result.loss = (decoded - weight).square().sum(at::kDouble).item<double>() / 2;
  if (const auto* affine = std::get_if<QuantizedLinear>(&linear)) {
    result.linear = affine->To(at::kCPU);
  } else if (const auto* table = std::get_if<CodebookLinear>(&linear)) {
    result.linear = table->To(at::kCPU);
  } else {
    result.linear = std::move(linear);
  }
  return result;
}

const float* ScaleSearch::Weights(int64_t begin) const {
  return column_weights.defined() ? column_weights.const_data_ptr<float>() + begin : nullptr;
}

void FindScales(const at::Tensor& weight, const IntegerScheme& scheme, const ScaleSearch& search,
                QuantizedLinear& linear) {
  KernelsOn(weight.device())
      .find_params({.weight = weight.const_data_ptr<float>(),
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
                    .params_stride = linear.groups(),
                    .stream = StreamOn(weight.device())});
}

void RoundToNearest(const at::Tensor& weight, const IntegerScheme& scheme,
                    const ScaleSearch& search, QuantizedLinear& linear) {
  FindScales(weight, scheme, search, linear);
  KernelsOn(weight.device())
      .rtn_rows({.weight = weight.const_data_ptr<float>(),
                 .weight_stride = weight.size(1),
                 .rows = weight.size(0),
                 .columns = weight.size(1),
                 .group_columns = scheme.group_columns,
                 .bits = scheme.bits,
                 .scales = HalfBits(linear.scales),
                 .zeros = linear.zeros.const_data_ptr<uint8_t>(),
                 .params_stride = linear.groups(),
                 .codes = linear.codes.mutable_data_ptr<uint8_t>(),
                 .codes_stride = weight.size(1),
                 .stream = StreamOn(weight.device())});
}

}  // namespace quantd::engine
