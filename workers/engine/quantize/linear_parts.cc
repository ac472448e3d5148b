// See linear_parts.h.
#include "workers/engine/quantize/linear_parts.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <variant>

#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr int64_t kRowStep = 64;  // No kernel works on fewer rows at a time.

}  // namespace

std::vector<LinearPart> CutLinears(const std::vector<const PlannedLinear*>& linears, size_t devices,
                                   bool rows_apart) {
  std::vector<LinearPart> parts;
  for (size_t i = 0; i < linears.size(); ++i) {
    const LinearShape& shape = linears[i]->shape;
    int64_t step = shape.out;
    if (rows_apart && linears.size() < devices) {
      const auto wanted = static_cast<int64_t>((devices + linears.size() - 1) / linears.size());
      step = (shape.out + wanted * kRowStep - 1) / (wanted * kRowStep) * kRowStep;
    }
    for (int64_t begin = 0; begin < shape.out; begin += step) {
      const int64_t rows = std::min(step, shape.out - begin);
      parts.push_back({.linear = i,
                       .place = static_cast<size_t>(begin / step),
                       .begin = begin,
                       .rows = rows,
                       .weights = rows * shape.in,
                       .whole = rows == shape.out});
    }
  }
  return parts;
}

std::vector<std::vector<size_t>> ShareOut(const std::vector<LinearPart>& parts, size_t devices) {
  std::vector<size_t> order(parts.size());
  std::iota(order.begin(), order.end(), 0);
  if (devices > 1) {
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return parts[a].weights > parts[b].weights; });
  }
  std::vector<std::vector<size_t>> shares(devices);
  std::vector<int64_t> weights(devices, 0);
  for (const size_t i : order) {
    const auto least = std::min_element(weights.begin(), weights.end()) - weights.begin();
    shares[least].push_back(i);
    weights[least] += parts[i].weights;
  }
  return shares;
}

absl::StatusOr<LinearResult> JoinParts(std::vector<LinearResult> parts) {
  LinearResult joined = std::move(parts[0]);
  std::vector<at::Tensor> codes, scales, zeros;
  for (size_t i = 0; i < parts.size(); ++i) {
    const LinearResult& part = i == 0 ? joined : parts[i];
    const auto* linear = std::get_if<QuantizedLinear>(&part.linear);
    if (linear == nullptr || linear->axis != 1) {
      return absl::InternalError("a linear was cut whose groups do not lie along its rows");
    }
    codes.push_back(linear->codes);
    scales.push_back(linear->scales);
    zeros.push_back(linear->zeros);
    if (i == 0) continue;
    joined.loss += part.loss;
    joined.damping = std::max(joined.damping, part.damping);
    for (const FallbackRecord& fallback : part.fallbacks) {
      const bool known = std::any_of(
          joined.fallbacks.begin(), joined.fallbacks.end(), [&](const FallbackRecord& other) {
            return other.kind == fallback.kind && other.description == fallback.description;
          });
      if (!known) joined.fallbacks.push_back(fallback);
    }
  }
  const absl::Status status = TorchCall("joining rows", [&] {
    auto& linear = std::get<QuantizedLinear>(joined.linear);
    linear.codes = at::cat(codes);
    linear.scales = at::cat(scales);
    linear.zeros = at::cat(zeros);
  });
  if (!status.ok()) return status;
  return joined;
}

}  // namespace quantd::engine
