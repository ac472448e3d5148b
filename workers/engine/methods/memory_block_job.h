// For this room's tests: a block of random weights in memory as a BlockJob, with inputs that have
// outlier columns as real activations do.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/models/test_util.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {

class MemoryBlockJob : public BlockJob {
 public:
  static constexpr int64_t kSequences = 6, kLength = 24;

  MemoryBlockJob(const ModelConfig& config, nlohmann::json options)
      : weights_(config, Row(config)), options_(std::move(options)) {
    absl::StatusOr<Decoder> decoder = Decoder::Create(config, weights_, {});
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = std::make_unique<Decoder>(*std::move(decoder));
    const Architecture& row = Row(config);
    for (const LinearShape& shape : Linears(config, row, 0)) {
      linears_.push_back({absl::StrCat(BlockPrefix(row, 0), shape.module), shape, &options_});
    }
    at::Generator generator = at::detail::createCPUGenerator(31);
    const at::Tensor sizes = at::randn({config.hidden_size}, generator).exp();
    inputs_ = at::randn({kSequences, kLength, config.hidden_size}, generator) * sizes;
    original_ = Outputs(*FloatBlock());
  }

  // What the block computes for all inputs.
  at::Tensor Outputs(const Block& block) const { return *decoder_->Forward(block, inputs_); }
  const at::Tensor& original() const { return original_; }

  // The block with every linear quantized by `method`, after its PrepareBlock or not.
  Block Quantized(const Method& method) {
    Block block = *FloatBlock();
    for (const LinearInfo& linear : linears_) {
      const auto result = method.Quantize({.name = linear.name,
                                           .weight = *Read(linear.name + ".weight"),
                                           .options = linear.options});
      EXPECT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(
          block.SetWeight(linear.shape.module, *Dequantize(result->linear, at::kFloat)).ok());
      block.linear(linear.shape.module).input = InputOf(result->linear);
    }
    return block;
  }
  double Error(const Block& block) const {
    return (Outputs(block) - original_).square().mean().item<double>();
  }

  const Decoder& decoder() const override { return *decoder_; }
  int64_t layer() const override { return 0; }
  const std::vector<LinearInfo>& linears() const override { return linears_; }
  std::vector<LinearInfo>& mutable_linears() { return linears_; }
  uint64_t seed() const override { return 1; }
  absl::StatusOr<Block> FloatBlock() override { return decoder_->LoadBlock(0, weights_); }
  absl::StatusOr<at::Tensor> Read(const std::string& name) override {
    return weights_.Read(name)->clone();
  }
  bool Has(const std::string& name) const override { return weights_.Has(name); }
  absl::Status Edit(const std::string& name, const at::Tensor& value) override {
    bool quantized = false;
    for (const LinearInfo& linear : linears_) quantized |= linear.name + ".weight" == name;
    // As a checkpoint in 16 bits does.
    weights_.tensors.at(name) = quantized ? value : value.to(at::kBFloat16).to(at::kFloat);
    ++edits;
    return absl::OkStatus();
  }
  int64_t sequences() const override { return kSequences; }
  int64_t batch_size() const override { return 4; }
  absl::StatusOr<at::Tensor> Inputs(int64_t begin, int64_t count) override {
    return inputs_.narrow(0, begin, count);
  }
  absl::StatusOr<at::Tensor> Targets(int64_t begin, int64_t count) override {
    return original_.narrow(0, begin, count);
  }
  // As if the first sequence were one device's, the others another's.
  size_t devices() const override { return 2; }
  absl::Status PassOver(const Block& block, const std::vector<LinearHook*>& hooks) override {
    for (int64_t i = 0; i < 2; ++i) {
      const at::Tensor inputs = inputs_.narrow(0, i, i == 0 ? 1 : kSequences - 1);
      const auto output = decoder_->Forward(block, inputs, {.hook = hooks[i]});
      if (!output.ok()) return output.status();
    }
    return absl::OkStatus();
  }
  void Fallback(absl::string_view kind, absl::string_view module,
                absl::string_view description) override {
    fallbacks.push_back({std::string(kind), std::string(module), std::string(description)});
  }
  void Note(const std::string& key, const nlohmann::json& value) override { notes[key] = value; }
  absl::Status CheckCancelled() override { return absl::OkStatus(); }

  std::vector<FallbackRecord> fallbacks;
  nlohmann::json notes;
  int edits = 0;

 private:
  RandomWeights weights_;
  nlohmann::json options_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<LinearInfo> linears_;
  at::Tensor inputs_, original_;
};

}  // namespace quantd::engine
