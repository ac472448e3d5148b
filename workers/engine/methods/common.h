// What the methods that write integer codes with a scale and a zero per group share: their options,
// their checks and the empty layer that they fill.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/table.h"
#include "workers/engine/methods/method.h"

namespace quantd::engine {

// bits, group_size, sym, quantize_head: first in every such method's list.
std::vector<OptionInfo> IntegerOptions();

// The same, read out of resolved options.
struct IntegerScheme {
  int bits;
  int64_t group_size;     // As given: -1 for all columns.
  int64_t group_columns;  // Columns a group, for a layer of this width.
  bool symmetric;
};
IntegerScheme SchemeOf(const nlohmann::json& options, int64_t inputs);

// InvalidArgument with the tensor's name and the first place that is NaN or infinite.
absl::Status CheckFinite(absl::string_view what, const at::Tensor& tensor);

// Where a layer is quantized, and by which kernels.
struct WorkPlace {
  at::Device device = at::kCPU;
  const kernels::Backend* kernels = nullptr;
  // Waits for the kernels; Internal of class DEVICE_FAULT when one failed.
  absl::Status Finish() const;
};
// Where `weight` is, if there are kernels for it; else the host.
WorkPlace PlaceFor(const at::Tensor& weight);
WorkPlace HostPlace();

// Codes, scales, zeros and group_index = k / group_columns, allocated at `place`.
QuantizedLinear EmptyLinear(const IntegerScheme& scheme, int64_t outputs, int64_t inputs,
                            const WorkPlace& place = HostPlace());
// All of its tensors on the CPU, as QuantizedLinear promises.
void MoveToHost(QuantizedLinear& linear);

// Scales, zeros and codes of `weight` (float32 [N, K], contiguous, at `place`) by rounding to
// nearest.
void RoundToNearest(const at::Tensor& weight, const IntegerScheme& scheme, QuantizedLinear& linear,
                    const WorkPlace& place = HostPlace());

// How a group's scale is looked for beyond its largest weight (kernels/find_params.h).
struct ScaleSearch {
  int steps = 0;  // 0: not at all.
  at::Tensor
      column_weights;  // float32 [K] beside the weight; undefined: all columns count the same.
  // For the columns from `begin` on.
  const float* Weights(int64_t begin) const;
};

// Scales and zeros only.
void FindScales(const at::Tensor& weight, const IntegerScheme& scheme, const ScaleSearch& search,
                QuantizedLinear& linear, const WorkPlace& place = HostPlace());

}  // namespace quantd::engine
