// X^T X is symmetric: only the tiles on and below the diagonal are computed, which saves 3/8 of the
// work at four tiles a side. Sums are float32, one product a batch.
#include "workers/engine/calibration/statistics.h"

#include <ATen/ops/maximum.h>
#include <ATen/ops/tril.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/float_product.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// Narrower tiles lose more to the matrix product's overhead than symmetry saves.
constexpr int64_t kTileColumnsMin = 256;
constexpr int64_t kTilesMax = 8;

// hessian[K, K] += x^T x for x [M, K], lower tiles only.
void AddProduct(const at::Tensor& x, const at::Tensor& hessian) {
  const int64_t columns = x.size(1);
  const int64_t tiles = std::clamp<int64_t>(columns / kTileColumnsMin, 1, kTilesMax);
  const int64_t tile = (columns + tiles - 1) / tiles;
  for (int64_t begin = 0; begin < columns; begin += tile) {
    const int64_t size = std::min(tile, columns - begin);
    at::Tensor rows = hessian.narrow(0, begin, size).narrow(1, 0, begin + size);
    const at::Tensor left = x.narrow(1, begin, size).t(), right = x.narrow(1, 0, begin + size);
    if (x.scalar_type() == at::kFloat) {
      rows.addmm_(left, right);
    } else {
      rows.add_(FloatProduct(left, right));
    }
  }
}

absl::Status Enough() { return absl::AbortedError("all inputs that were wanted have been seen"); }

struct Gathered {
  at::Tensor InputStatistics::*tensor;
  Collective::Operation operation;
};
constexpr Gathered kGathered[] = {{&InputStatistics::hessian, Collective::Operation::kSum},
                                  {&InputStatistics::drift, Collective::Operation::kSum},
                                  {&InputStatistics::absmax, Collective::Operation::kMax}};

// The group that `module` is the first of; nothing for the others of a group.
const LinearShape* FirstOfGroup(const std::vector<LinearShape>& linears, absl::string_view module) {
  const LinearShape* first = nullptr;
  for (const LinearShape& linear : linears) {
    const bool new_group = first == nullptr || first->group != linear.group;
    if (new_group) first = &linear;
    if (linear.module == module) return new_group ? first : nullptr;
  }
  return nullptr;
}

// drift[K, K] += (original - x)^T x.
void AddDrift(const at::Tensor& original, const at::Tensor& x, at::Tensor& drift) {
  const at::Tensor apart = original.reshape({-1, original.size(-1)}).to(at::kFloat) - x;
  if (!drift.defined()) drift = at::zeros({x.size(1), x.size(1)}, x.options());
  drift.addmm_(apart.t(), x);
}

}  // namespace

StatisticsCollector::StatisticsCollector(std::vector<LinearShape> linears, std::set<int> wanted,
                                         const CalibrationNeeds& needs)
    : linears_(std::move(linears)), wanted_(std::move(wanted)), needs_(needs) {}

void StatisticsCollector::Reset() { statistics_.clear(); }

absl::Status StatisticsCollector::OnInput(absl::string_view module, const at::Tensor& input) {
  const LinearShape* linear = FirstOfGroup(linears_, module);
  if (linear == nullptr || !wanted_.contains(linear->group)) return absl::OkStatus();
  const int group = linear->group;
  absl::Status status = TorchCall(absl::StrCat("gathering the inputs of ", module), [&] {
    // A GPU multiplies 16-bit inputs as they are; a CPU is faster after one widening.
    const at::Tensor inputs = input.reshape({-1, input.size(-1)});
    const at::Tensor x = inputs.is_cuda() ? inputs : inputs.to(at::kFloat);
    InputStatistics& statistics = statistics_[group];
    if (needs_.hessian) {
      if (!statistics.hessian.defined()) {
        statistics.hessian = at::zeros({x.size(1), x.size(1)}, x.options().dtype(at::kFloat));
      }
      AddProduct(x, statistics.hessian);
    }
    const auto original = originals_.find(group);
    if (needs_.drift && original != originals_.end()) {
      AddDrift(original->second, x.to(at::kFloat), statistics.drift);
    }
    if (needs_.absmax) {
      const at::Tensor largest = x.abs().amax(0).to(at::kFloat);
      statistics.absmax =
          statistics.absmax.defined() ? at::maximum(statistics.absmax, largest) : largest;
    }
    statistics.tokens += x.size(0);
  });
  if (!status.ok()) return status;
  if (group == *wanted_.rbegin()) {
    enough_ = true;
    return Enough();
  }
  return absl::OkStatus();
}

absl::Status InputCapture::OnInput(absl::string_view module, const at::Tensor& input) {
  const LinearShape* linear = FirstOfGroup(linears_, module);
  if (linear == nullptr || !wanted_.contains(linear->group)) return absl::OkStatus();
  // An expert's tokens are others than those that the quantized model sends to it.
  if (linear->expert < 0) inputs_[linear->group] = input;
  enough_ = linear->group == *wanted_.rbegin();
  return enough_ ? Enough() : absl::OkStatus();
}

absl::Status StatisticsCollector::Combine(absl::Span<StatisticsCollector> collectors,
                                          absl::Span<const at::Device> devices,
                                          Collective& collective) {
  if (collectors.size() == 1) return absl::OkStatus();
  for (const int group : collectors[0].wanted_) {
    int64_t tokens = 0;
    for (StatisticsCollector& collector : collectors) tokens += collector.statistics_[group].tokens;
    for (StatisticsCollector& collector : collectors) collector.statistics_[group].tokens = tokens;
    for (const auto& [tensor, operation] : kGathered) {
      at::Tensor one;
      for (StatisticsCollector& collector : collectors) {
        if (!one.defined()) one = collector.statistics_[group].*tensor;
      }
      if (!one.defined()) continue;
      std::vector<at::Tensor> parts;
      QD_RETURN_IF_ERROR(TorchCall("adding up over devices", [&] {
        for (size_t i = 0; i < collectors.size(); ++i) {
          at::Tensor& part = collectors[i].statistics_[group].*tensor;
          // No token of this device's share was routed to that expert.
          if (!part.defined()) part = at::zeros(one.sizes(), one.options().device(devices[i]));
          parts.push_back(part);
        }
      }));
      QD_RETURN_IF_ERROR(collective.Reduce(operation, parts));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<int, InputStatistics>> StatisticsCollector::Finish() {
  for (const int group : wanted_) statistics_.try_emplace(group);  // Experts without tokens.
  absl::Status status = TorchCall("finishing the Hessians", [&] {
    for (auto& [group, statistics] : statistics_) {
      if (statistics.drift.defined()) {
        statistics.drift.mul_(2.0 / static_cast<double>(statistics.tokens));
      }
      at::Tensor& hessian = statistics.hessian;
      if (!hessian.defined()) continue;
      hessian.mul_(2.0 / static_cast<double>(statistics.tokens));
      // Tiles on the diagonal are whole; what lies above them mirrors what lies below.
      hessian.tril_();
      const at::Tensor diagonal = hessian.diagonal().clone();
      hessian.add_(hessian.t().clone());
      hessian.diagonal().copy_(diagonal);
    }
  });
  if (!status.ok()) return status;
  return std::move(statistics_);
}

}  // namespace quantd::engine
