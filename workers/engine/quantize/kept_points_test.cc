// What is kept inside a block is exactly what would be computed again, whatever there is room for.
#include "workers/engine/quantize/kept_points.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "workers/engine/models/test_util.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

constexpr int64_t kSequences = 5, kLength = 12, kBatch = 2;

// Ends the pass in front of a linear, as the collector of its inputs does, and counts what is
// computed.
class StopAt : public LinearHook {
 public:
  explicit StopAt(std::string module) : module_(std::move(module)) {}
  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override {
    seen.emplace_back(module);
    if (module != module_) return absl::OkStatus();
    inputs.push_back(input.clone());
    return absl::AbortedError("enough");
  }
  std::vector<std::string> seen;
  std::vector<at::Tensor> inputs;

 private:
  const std::string module_;
};

class KeptPointsTest : public testing::TestWithParam<const char*> {
 protected:
  KeptPointsTest() : config_(SmallConfig(GetParam())), row_(Row(config_)), weights_(config_, row_) {
    auto decoder = Decoder::Create(config_, weights_, {});
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = std::make_unique<Decoder>(*std::move(decoder));
    at::Generator generator = at::detail::createCPUGenerator(7);
    hidden_ = at::randn({kSequences, kLength, config_.hidden_size}, generator);
    shape_ = {.sequences = kSequences,
              .length = kLength,
              .width = config_.hidden_size,
              .dtype = at::kFloat};
  }

  // The linears in front of which a pass ends: output, the feed-forward's first and last.
  std::vector<std::string> Stages() const {
    const std::vector<LinearShape> linears = Linears(config_, row_, 0);
    std::vector<std::string> stages;
    for (const LinearShape& linear : linears) {
      if (linear.group == static_cast<int>(stages.size()) + 1 && stages.size() < 2) {
        stages.push_back(linear.module);
      }
    }
    stages.push_back(linears.back().module);
    return stages;
  }

  // The block's outputs after a pass in front of every stage, and what each pass computed.
  std::vector<at::Tensor> Run(KeptPoints* kept, std::vector<std::vector<std::string>>* seen) {
    const Block block = *decoder_->LoadBlock(0, weights_);
    std::vector<at::Tensor> results;
    std::vector<std::string> stages = Stages();
    stages.push_back("");
    for (const std::string& module : stages) {
      StopAt hook(module);
      if (module.empty() && kept != nullptr) kept->Freeze();
      for (int64_t begin = 0; begin < kSequences; begin += kBatch) {
        const int64_t count = std::min(kBatch, kSequences - begin);
        if (kept != nullptr) kept->StartBatch(begin, count);
        const auto output = decoder_->Forward(block, hidden_.narrow(0, begin, count),
                                              {.hook = &hook, .memory = kept});
        EXPECT_EQ(output.ok(), module.empty()) << output.status();
        if (output.ok()) hook.inputs.push_back(*output);
      }
      results.push_back(at::cat(hook.inputs));
      if (seen != nullptr) seen->push_back(std::move(hook.seen));
    }
    return results;
  }

  ModelConfig config_;
  const Architecture& row_;
  RandomWeights weights_;
  std::unique_ptr<Decoder> decoder_;
  at::Tensor hidden_;
  ActivationShape shape_;
};

TEST_P(KeptPointsTest, SameBitsWithAnyRoom) {
  const std::vector<at::Tensor> expected = Run(nullptr, nullptr);
  const int64_t needed = KeptPoints::BytesNeeded(config_, shape_);
  for (const int64_t room : {needed, needed / 2, needed / 4, int64_t{0}}) {
    KeptPoints kept(shape_, room, at::kCPU);
    for (int repeat = 0; repeat < 2; ++repeat) {  // A second block finds nothing of the first.
      const std::vector<at::Tensor> values = Run(&kept, nullptr);
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(values[i].equal(expected[i])) << "stage " << i << " with room " << room;
      }
      kept.Clear();
    }
  }
}

TEST_P(KeptPointsTest, NoLinearIsComputedTwice) {
  if (config_.experts > 0) GTEST_SKIP() << "experts' values are not kept";
  KeptPoints kept(shape_, KeptPoints::BytesNeeded(config_, shape_), at::kCPU);
  std::vector<std::vector<std::string>> seen;
  Run(&kept, &seen);
  std::map<std::string, int> times;
  const int64_t batches = (kSequences + kBatch - 1) / kBatch;
  for (const std::vector<std::string>& pass : seen) {
    for (const std::string& module : pass) ++times[module];
  }
  for (const LinearShape& linear : Linears(config_, row_, 0)) {
    // Where a pass ended, the next one began.
    const std::vector<std::string> stages = Stages();
    const bool ended = std::find(stages.begin(), stages.end(), linear.module) != stages.end();
    EXPECT_EQ(times[linear.module], batches * (ended ? 2 : 1)) << linear.module;
  }
}

TEST_P(KeptPointsTest, GivesUpWhenAsked) {
  const std::vector<at::Tensor> expected = Run(nullptr, nullptr);
  KeptPoints kept(shape_, KeptPoints::BytesNeeded(config_, shape_), at::kCPU);
  Run(&kept, nullptr);
  EXPECT_TRUE(kept.GiveUp());
  EXPECT_FALSE(kept.GiveUp());
  const std::vector<at::Tensor> values = Run(&kept, nullptr);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(values[i].equal(expected[i]));
}

INSTANTIATE_TEST_SUITE_P(Architectures, KeptPointsTest,
                         testing::Values("LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel",
                                         "PhiForCausalLM", "Phi3ForCausalLM", "Gemma2ForCausalLM",
                                         "MixtralForCausalLM"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace quantd::engine
