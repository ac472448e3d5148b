// See probe.h.
#include "workers/engine/quantize/probe.h"

#include <ATen/ops/logsumexp.h>
#include <ATen/ops/topk.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"

namespace quantd::engine {
namespace {

constexpr int64_t kProbeTokens = 32;
constexpr int64_t kProbePositions = 4;
constexpr int64_t kProbeLogits = 64;

// Rounding unit of a product's inputs.
double UnitRoundoff(at::ScalarType dtype) {
  if (dtype == at::kBFloat16) return 0x1p-9;
  if (dtype == at::kHalf) return 0x1p-12;
  return 0x1p-24;
}

// Each block rounds its output and a dozen intermediates once; independent errors add as a root.
// Sums in another order (threads, batch, device) add a few units more, hence the factor: measured
// differences stay below a tenth.
constexpr double kRoundingsPerBlock = 16;
constexpr double kSafety = 16;

}  // namespace

at::Tensor ProbeTokens(int64_t vocabulary) {
  // A multiplier without common factors with real vocabularies spreads the ids over all of them.
  return (at::arange(kProbeTokens, at::kLong) * 7919 + 13).remainder(vocabulary).unsqueeze(0);
}

nlohmann::json DescribeProbe(const at::Tensor& tokens, const at::Tensor& logits,
                             at::ScalarType dtype, at::Device device) {
  const at::Tensor ids = tokens.flatten();
  nlohmann::json json = {
      {"tokens", std::vector<int64_t>(ids.const_data_ptr<int64_t>(),
                                      ids.const_data_ptr<int64_t>() + ids.numel())},
      {"dtype", ComputeDtypeName(dtype)},
      {"device", device.is_cuda() ? "cuda" : "cpu"},
      {"positions", nlohmann::json::array()}};
  const int64_t count = std::min(kProbeLogits, logits.size(1));
  for (int64_t position = ids.numel() - kProbePositions; position < ids.numel(); ++position) {
    const at::Tensor row = logits[position].to(at::kCPU).contiguous();
    const auto [values, indices] = at::topk(row, count);
    nlohmann::json entry = {{"position", position},
                            {"logsumexp", at::logsumexp(row.to(at::kDouble), 0).item<double>()}};
    for (int64_t i = 0; i < count; ++i) {
      entry["ids"].push_back(indices[i].item<int64_t>());
      entry["logits"].push_back(values[i].item<double>());
    }
    json["positions"].push_back(std::move(entry));
  }
  return json;
}

absl::StatusOr<ProbeDifference> CompareProbe(const nlohmann::json& probe, const at::Tensor& logits,
                                             at::ScalarType dtype, int64_t layers) {
  const absl::Status damaged = absl::InvalidArgumentError(absl::StrCat(kProbeFile, " is damaged"));
  if (!probe.is_object() || !probe.contains("positions") || !probe["positions"].is_array() ||
      !probe.contains("dtype") || !probe["dtype"].is_string()) {
    return damaged;
  }
  QD_ASSIGN_OR_RETURN(const at::ScalarType recorded,
                      ParseComputeDtype(probe["dtype"].get<std::string>()));
  ProbeDifference difference;
  double scale = 1;
  for (const nlohmann::json& entry : probe["positions"]) {
    if (!entry.is_object() || !entry.contains("ids") || !entry.contains("logits") ||
        entry["ids"].size() != entry["logits"].size() || !entry.contains("logsumexp") ||
        !entry["logsumexp"].is_number() || !entry.contains("position") ||
        !entry["position"].is_number_integer()) {
      return damaged;
    }
    const int64_t position = entry["position"].get<int64_t>();
    if (position < 0 || position >= logits.size(0)) return damaged;
    const at::Tensor row = logits[position].to(at::kCPU, at::kDouble);
    const double sum = at::logsumexp(row, 0).item<double>();
    difference.largest =
        std::max(difference.largest, std::abs(sum - entry["logsumexp"].get<double>()));
    for (size_t i = 0; i < entry["ids"].size(); ++i) {
      if (!entry["ids"][i].is_number_integer() || !entry["logits"][i].is_number()) return damaged;
      const int64_t id = entry["ids"][i].get<int64_t>();
      if (id < 0 || id >= row.numel()) return damaged;
      const double expected = entry["logits"][i].get<double>();
      scale = std::max(scale, std::abs(expected));
      const double delta = std::abs(row[id].item<double>() - expected);
      difference.largest = std::isnan(delta) ? INFINITY : std::max(difference.largest, delta);
    }
  }
  const double roundoff = std::max(UnitRoundoff(dtype), UnitRoundoff(recorded));
  difference.bound =
      kSafety * roundoff * scale * std::sqrt(kRoundingsPerBlock * static_cast<double>(layers + 1));
  return difference;
}

}  // namespace quantd::engine
