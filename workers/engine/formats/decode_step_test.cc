// A decode step's kernels against libtorch's operators over the same weights, in every form that
// they are stored in; and the graph against the kernels launched one by one.
#include "workers/engine/models/decode_step.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/codebooks.h"
#include "workers/engine/formats/packed_product.h"
#include "workers/engine/models/model.h"
#include "workers/engine/models/test_util.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"

namespace quantd::engine {
namespace {

constexpr int64_t kPrompt = 7;
constexpr int64_t kSteps = 5;

ModelConfig StepConfig(absl::string_view architecture) {
  ModelConfig config = SmallConfig(architecture);
  config.hidden_size = 128;
  config.intermediate_size = 192;
  config.head_dim = 32;
  config.max_position_embeddings = 256;
  return config;
}

// Random codes of a linear [outputs, inputs] in that form.
QuantizedWeight RandomCodes(const std::string& form, int64_t outputs, int64_t inputs) {
  if (form == "nf4") {
    CodebookLinear linear;
    linear.type = "nf4";
    linear.block_size = 64;
    linear.codes = at::randint(16, {outputs, inputs}, at::kByte);
    linear.codebook = at::from_blob(const_cast<float*>(kernels::kNf4), {16}, at::kFloat).clone();
    linear.absmax = at::rand({outputs * inputs / 64}) * 0.05 + 0.01;
    return linear;
  }
  QuantizedLinear linear;
  linear.bits = form == "w8a8" ? 8 : 4;
  const int64_t group = form == "w8a8" ? inputs : 64;
  linear.group_size = group;
  linear.symmetric = form != "w4 zeros";
  linear.codes = at::randint(1 << linear.bits, {outputs, inputs}, at::kByte);
  const double largest = form == "w8a8" ? 0.0006 : 0.01;
  linear.scales = (at::rand({outputs, inputs / group}) * largest).to(at::kHalf);
  linear.zeros = linear.symmetric
                     ? at::full({outputs, inputs / group}, 1 << (linear.bits - 1), at::kByte)
                     : at::randint(1, 15, {outputs, inputs / group}, at::kByte);
  linear.group_index = OrderedGroups(inputs, group);
  if (form == "w8a8") linear.input.kind = InputKind::kInt8PerToken;
  return linear;
}

// Random weights whose block linears lie in codes; read as tensors, they are decoded.
class CodedWeights : public RandomWeights {
 public:
  CodedWeights(const ModelConfig& config, const Architecture& row, const std::string& form)
      : RandomWeights(config, row) {
    for (auto& [name, tensor] : tensors) {
      if (tensor.dim() != 2) continue;
      tensor = tensor * 0.2;
      if (form.empty() || !absl::StrContains(name, "_proj.weight")) continue;
      const QuantizedWeight coded = RandomCodes(form, tensor.size(0), tensor.size(1));
      tensor = *Dequantize(coded, at::kFloat);
      coded_.emplace(name, coded);
    }
  }

  InputQuantization InputRounding(absl::string_view name) const override {
    const auto found = coded_.find(std::string(name));
    if (found == coded_.end()) return {};
    const auto* linear = std::get_if<QuantizedLinear>(&found->second);
    return linear == nullptr ? InputQuantization{} : linear->input;
  }

  absl::StatusOr<std::shared_ptr<const PackedWeight>> ReadPacked(
      absl::string_view name, at::Device device, at::ScalarType dtype) const override {
    const auto found = coded_.find(std::string(name));
    if (found == coded_.end()) return nullptr;
    return PackForProducts(found->second, device, dtype);
  }

 private:
  std::map<std::string, QuantizedWeight> coded_;
};

double RootMeanSquare(const at::Tensor& x) { return x.pow(2).mean().sqrt().item<double>(); }

class DecodeStepTest : public testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> gpu = SelectDevice("cuda:0");
    if (!gpu.ok()) GTEST_SKIP() << gpu.status();
    if (!KernelDevice(*gpu).is_cuda()) GTEST_SKIP() << "no kernels for the GPU";
    gpu_ = *gpu;
  }

  // The model on the GPU, and as `exact_` in float32 on the CPU.
  Model Load(absl::string_view architecture, const std::string& form, at::ScalarType dtype) {
    const ModelConfig config = StepConfig(architecture);
    const CodedWeights source(config, Row(config), form);
    auto model = Model::Load(config, source, {.device = gpu_, .dtype = dtype, .packed = true});
    auto exact = Model::Load(config, source, {});
    EXPECT_TRUE(model.ok() && exact.ok()) << model.status() << exact.status();
    exact_ = std::make_unique<Model>(*std::move(exact));
    return *std::move(model);
  }

  // A cache that has read the same prompts; `padded`: every second one is shorter.
  static KvCache Prefilled(const Model& model, int64_t batch, bool padded) {
    std::vector<int64_t> starts;
    for (int64_t b = 0; b < batch; ++b) starts.push_back(padded && b % 2 == 1 ? 3 : 0);
    KvCache cache(model.config().layers, starts);
    EXPECT_TRUE(model.Forward(Ids(batch, kPrompt), &cache).ok());
    return cache;
  }

  // A step's logits and the operators' behind the same tokens, against those in float32.
  void ExpectAgreement(const Model& model, int64_t batch, bool padded) const {
    auto step =
        DecodeStep::Create(model.decoder(), const_cast<Model&>(model).blocks(), {.batch = batch});
    ASSERT_TRUE(step.ok()) << step.status();
    KvCache by_step = Prefilled(model, batch, padded);
    KvCache by_operators = Prefilled(model, batch, padded);
    KvCache exactly = Prefilled(*exact_, batch, padded);
    std::vector<at::Tensor> of_step, of_operators, exact;
    for (int64_t i = 0; i < kSteps; ++i) {
      const at::Tensor ids = Ids(batch, kSteps).select(1, i).unsqueeze(1).contiguous();
      ASSERT_TRUE((*step)->Takes(by_step));
      const auto got = (*step)->Run(model.decoder(), ids, &by_step);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ((*step)->capture_problem(), "");
      of_step.push_back(got->to(at::kCPU));
      const auto logits = [&](const Model& by, KvCache* cache) {
        const auto hidden = by.Forward(ids, cache);
        EXPECT_TRUE(hidden.ok()) << hidden.status();
        return by.decoder().Logits(hidden->select(1, 0))->to(at::kCPU);
      };
      of_operators.push_back(logits(model, &by_operators));
      exact.push_back(logits(*exact_, &exactly));
      EXPECT_EQ(by_step.length(0), by_operators.length(0));
    }
    // Both round alike, and where sums' last bits differ a number rounds the other way, which the
    // layers behind it carry on: neither is nearer to the exact logits by more than chance.
    const at::Tensor truth = at::stack(exact);
    const double of_theirs = RootMeanSquare(at::stack(of_operators) - truth);
    const double of_ours = RootMeanSquare(at::stack(of_step) - truth);
    EXPECT_LE(of_ours, 1.5 * of_theirs) << "of " << RootMeanSquare(truth);
    EXPECT_LE(of_theirs, 0.1 * RootMeanSquare(truth));  // Or it would show nothing.
  }

  at::Device gpu_ = at::kCPU;
  std::unique_ptr<Model> exact_;
};

TEST_F(DecodeStepTest, AgreesWithTheOperators) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    for (const char* form : {"", "w4", "w4 zeros", "nf4", "w8a8"}) {
      const Model model = Load("LlamaForCausalLM", form, dtype);
      for (const int64_t batch : {1, 8, 33}) {
        SCOPED_TRACE(absl::StrCat("form '", form, "' batch ", batch, " ", c10::toString(dtype)));
        ExpectAgreement(model, batch, /*padded=*/false);
      }
    }
  }
}

TEST_F(DecodeStepTest, AgreesForEveryArchitectureThatItTakes) {
  int taken = 0;
  for (const Architecture& row : Architectures()) {
    SCOPED_TRACE(std::string(row.name));
    const Model model = Load(row.name, "", at::kBFloat16);
    auto step =
        DecodeStep::Create(model.decoder(), const_cast<Model&>(model).blocks(), {.batch = 2});
    const bool plain = row.norm == NormKind::kRms && row.router.empty();
    EXPECT_EQ(step.ok(), plain) << step.status();
    if (!step.ok()) {
      EXPECT_EQ(step.status().code(), absl::StatusCode::kUnimplemented);
      continue;
    }
    ++taken;
    ExpectAgreement(model, 2, /*padded=*/true);
  }
  EXPECT_GE(taken, 5);
}

// The same kernels in the same order: the same bits, also where the cache is another one.
TEST_F(DecodeStepTest, AGraphIsItsKernels) {
  for (const char* form : {"", "w4", "nf4", "w8a8"}) {
    const Model model = Load("Qwen3ForCausalLM", form, at::kBFloat16);
    for (const int64_t batch : {1, 8}) {
      std::vector<at::Tensor> logits;
      for (const bool capture : {false, true}) {
        auto step = DecodeStep::Create(model.decoder(), const_cast<Model&>(model).blocks(),
                                       {.batch = batch, .capture = capture});
        ASSERT_TRUE(step.ok()) << step.status();
        for (const int64_t room : {0, 200}) {
          KvCache cache(model.config().layers);
          cache.Reserve(room);
          ASSERT_TRUE(model.Forward(Ids(batch, kPrompt), &cache).ok());
          for (int64_t i = 0; i < kSteps; ++i) {
            const at::Tensor ids = Ids(batch, kSteps).select(1, i).unsqueeze(1).contiguous();
            const auto got = (*step)->Run(model.decoder(), ids, &cache);
            ASSERT_TRUE(got.ok()) << got.status();
            logits.push_back(got->clone());
          }
        }
      }
      const size_t half = logits.size() / 2;
      for (size_t i = 0; i < half; ++i) {
        EXPECT_TRUE(logits[i].equal(logits[half + i]))
            << form << " batch " << batch << " run " << i;
      }
    }
  }
}

// Generation takes the step, grows the cache where it is full, and says which way it went.
TEST_F(DecodeStepTest, GenerationUsesIt) {
  Model model = Load("LlamaForCausalLM", "w4", at::kBFloat16);
  EXPECT_EQ(model.decode_path().name, "");
  const auto texts = model.Generate({{1, 2, 3}, {4, 5}}, {.new_tokens_max = 80, .stop_ids = {}});
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ((*texts)[0].size(), 80u);
  EXPECT_EQ(model.decode_path().name, "cuda_graph");
  KvCache cache(model.config().layers);
  ASSERT_TRUE(model.NextLogits(Ids(1, 3), &cache).ok());
  for (int i = 0; i < 70; ++i) ASSERT_TRUE(model.NextLogits(Ids(1, 1), &cache).ok());
  EXPECT_EQ(cache.length(0), 73);  // Beyond the room that it began with.
  const Model refused = Load("Gemma2ForCausalLM", "", at::kBFloat16);
  ASSERT_TRUE(refused.Generate({{1, 2, 3}}, {.new_tokens_max = 3, .stop_ids = {}}).ok());
  EXPECT_EQ(refused.decode_path().name, "operators");
  EXPECT_NE(refused.decode_path().why, "");
}

TEST(DecodeStepOnCpu, IsRefused) {
  const ModelConfig config = StepConfig("LlamaForCausalLM");
  const RandomWeights source(config, Row(config));
  const auto model = Model::Load(config, source, {});
  ASSERT_TRUE(model.ok());
  ASSERT_TRUE(model->Generate({{1, 2, 3}}, {.new_tokens_max = 3, .stop_ids = {}}).ok());
  EXPECT_EQ(model->decode_path().name, "operators");
}

}  // namespace
}  // namespace quantd::engine
