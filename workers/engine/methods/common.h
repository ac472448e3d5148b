// What the methods that write integer codes with a scale and a zero per group share: their options,
// their checks and the empty layer that they fill.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/methods/method.h"

namespace quantd::engine {

// bits, group_size, sym, quantize_head: first in every such method's list.
std::vector<OptionInfo> IntegerOptions();

// The formats that hold whole zero points in groups along the inputs; the first is the default.
std::vector<std::string> IntegerFormats();

// The same, read out of resolved options.
struct IntegerScheme {
  int bits;
  int64_t group_size;     // As given: -1 for all columns.
  int64_t group_columns;  // Columns a group, for a layer of this width.
  bool symmetric;
};
IntegerScheme IntegerSchemeOf(const nlohmann::json& options, int64_t inputs);

// InvalidArgument with the tensor's name and the first place that is NaN or infinite.
absl::Status CheckFinite(absl::string_view what, const at::Tensor& tensor);

// With half the sum of squared differences to `weight` (float32 [N, K], on the layer's device) as
// the loss; the result is on the CPU.
absl::StatusOr<LinearResult> WithRoundingLoss(QuantizedWeight linear, const at::Tensor& weight);

// Codes, scales, zeros allocated and group_index = k / group_columns.
QuantizedLinear EmptyLinear(const IntegerScheme& scheme, int64_t outputs, int64_t inputs,
                            at::Device device);

// The range of a group is shrunk to a fifth at most, in steps of a hundredth, where its scale is
// searched.
constexpr int kScaleSearchSteps = 80;

// How a group's scale is looked for beyond its largest weight (kernels/find_params.h).
struct ScaleSearch {
  int steps = 0;  // 0: not at all.
  // float32 [K] on the weight's device; undefined: all columns count the same.
  at::Tensor column_weights = {};
  // For the columns from `begin` on.
  const float* Weights(int64_t begin) const;
};

// Scales, zeros and codes of `weight` (float32 [N, K], contiguous, on a device that KernelDevice
// gave, as `linear` is) by rounding to nearest.
void RoundToNearest(const at::Tensor& weight, const IntegerScheme& scheme,
                    const ScaleSearch& search, QuantizedLinear& linear);
// Scales and zeros only.
void FindScales(const at::Tensor& weight, const IntegerScheme& scheme, const ScaleSearch& search,
                QuantizedLinear& linear);

}  // namespace quantd::engine
