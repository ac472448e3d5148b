// For this room's tests: random weights of any architecture, kept in memory.
#pragma once

#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "workers/engine/models/decoder.h"
#include "workers/engine/tensor/device.h"

namespace quantd::engine {

constexpr uint64_t kTestSeed = 5;

// Random weights for any config, kept in memory; counts what is read and released.
class RandomWeights : public WeightSource {
 public:
  RandomWeights(const ModelConfig& config, const Architecture& row) {
    EXPECT_TRUE(SetDeterministic(kTestSeed).ok());
    SetThreads(1);
    for (const ExpectedTensor& tensor : ExpectedTensors(config, row)) {
      tensors[tensor.name] = at::randn(tensor.shape) * 0.2 + (tensor.shape.size() == 1 ? 1.0 : 0.0);
    }
  }
  bool Has(absl::string_view name) const override { return tensors.contains(std::string(name)); }
  absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const override {
    if (!Has(name)) return absl::NotFoundError(absl::StrCat("no tensor ", name));
    return tensors.at(std::string(name)).sizes().vec();
  }
  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override {
    ++held;
    return tensors.at(std::string(name));
  }
  void Release(absl::string_view) const override { --held; }
  std::string Where(absl::string_view) const override { return "memory"; }

  std::map<std::string, at::Tensor> tensors;
  mutable int held = 0;
};

inline const Architecture& Row(const ModelConfig& config) { return **FindArchitecture(config); }

inline ModelConfig SmallConfig(absl::string_view architecture = "Qwen3ForCausalLM") {
  ModelConfig config;
  config.architecture = std::string(architecture);
  config.vocab_size = 50;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 12;
  config.layer_is_sliding = {false, true};
  config.sliding_window = 5;
  config.max_position_embeddings = 64;
  if (!Row(config).router.empty()) {
    config.experts = 3;
    config.experts_per_token = 2;
    config.expert_intermediate_size = 20;
  }
  return config;
}

inline at::Tensor Ids(int64_t batch, int64_t length) {
  return at::arange(batch * length, at::kLong).mul(7).remainder(50).view({batch, length});
}

inline bool Close(const at::Tensor& a, const at::Tensor& b) {
  return at::allclose(a, b, 1e-4, 1e-4);
}

}  // namespace quantd::engine
