// What a quantized model answers to a few fixed tokens, recorded while it is still in memory, so
// that whoever loads the written files can tell whether they are the same model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd::engine {

constexpr char kProbeFile[] = "verification_probe.json";

// int64 [1, P], the same for every model with this vocabulary.
at::Tensor ProbeTokens(int64_t vocabulary);

// For the last positions: the largest logits with their ids, and the logsumexp. `logits` float32
// [P, V].
nlohmann::json DescribeProbe(const at::Tensor& tokens, const at::Tensor& logits,
                             at::ScalarType dtype, at::Device device);

struct ProbeDifference {
  double largest = 0;  // Over all recorded logits and logsumexps.
  double bound = 0;    // What rounding alone explains.
};
// `logits` of the same tokens by another run in `dtype`. InvalidArgument when `probe` is damaged.
absl::StatusOr<ProbeDifference> CompareProbe(const nlohmann::json& probe, const at::Tensor& logits,
                                             at::ScalarType dtype, int64_t layers);

}  // namespace quantd::engine
