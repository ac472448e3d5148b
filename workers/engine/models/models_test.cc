// What can be said of the models room without a reference implementation: shapes, refusals, and
// that every way of computing the same thing gives the same numbers.
// tests/conformance/logits_oracle.py holds them against transformers.
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/test_util.h"
#include "workers/engine/models/activation.h"
#include "workers/engine/models/attention.h"
#include "workers/engine/models/inspect.h"
#include "workers/engine/models/model.h"
#include "workers/engine/models/test_util.h"

namespace quantd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Architecture, EveryRowIsFoundByBothNames) {
  for (const Architecture& row : Architectures()) {
    EXPECT_EQ(*FindArchitecture(row.name, ""), &row);
    EXPECT_EQ(*FindArchitecture("", row.model_type), &row);
  }
  const absl::Status unknown = FindArchitecture("BloomForCausalLM", "bloom").status();
  EXPECT_TRUE(absl::IsUnimplemented(unknown));
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("Qwen3ForCausalLM"));
}

TEST(Architecture, BiasesFollowRowAndConfig) {
  const auto biased = [](absl::string_view name, bool attention, bool mlp) {
    ModelConfig config = SmallConfig(name);
    config.attention_bias = attention;
    config.mlp_bias = mlp;
    std::vector<std::string> modules;
    for (const LinearShape& linear : Linears(config, Row(config), 0)) {
      if (linear.has_bias) modules.push_back(linear.module);
    }
    return modules;
  };
  EXPECT_THAT(biased("LlamaForCausalLM", false, false), ElementsAre());
  EXPECT_EQ(biased("LlamaForCausalLM", true, true).size(), 7u);
  EXPECT_THAT(biased("MistralForCausalLM", true, true), ElementsAre());
  EXPECT_THAT(biased("Qwen2ForCausalLM", false, true),
              ElementsAre("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"));
  EXPECT_EQ(biased("Qwen3ForCausalLM", true, true).size(), 4u);
}

TEST(Weights, EveryMissingOrMisshapenTensorIsNamed) {
  const ModelConfig config = SmallConfig();
  RandomWeights good(config, Row(config));
  ASSERT_TRUE(ValidateWeights(config, Row(config), good).ok());
  for (const ExpectedTensor& expected : ExpectedTensors(config, Row(config))) {
    RandomWeights bad = good;
    bad.tensors.erase(expected.name);
    absl::Status status = Decoder::Create(config, bad, {}).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << expected.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(expected.name));
    bad.tensors[expected.name] = at::zeros({3, 2, 1});
    status = Decoder::Create(config, bad, {}).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << expected.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("[3, 2, 1]"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(ShapeText(expected.shape)));
  }
}

TEST(Decoder, RefusesWhatItCannotCompute) {
  ModelConfig config = SmallConfig();
  const RandomWeights source(config, Row(config));
  const auto decoder = Decoder::Create(config, source, {.with_head = false});
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  EXPECT_TRUE(absl::IsInvalidArgument(decoder->LoadBlock(2, source).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(decoder->LoadBlock(-1, source).status()));
  EXPECT_THAT(std::string(decoder->Embed(Ids(1, 3) + 49).status().message()),
              HasSubstr("outside the vocabulary of 50"));
  EXPECT_TRUE(absl::IsInvalidArgument(decoder->Embed(Ids(1, 3) - 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(decoder->Embed(at::zeros({1, 3})).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(decoder->Embed(at::zeros({1, 0}, at::kLong)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(decoder->Logits(at::zeros({1, 3, 31})).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(decoder->Logits(at::zeros({1, 3, 32})).status()));
  config.hidden_act = "mish";
  EXPECT_THAT(std::string(Decoder::Create(config, source, {}).status().message()),
              HasSubstr("hidden_act \"mish\" is not supported; supported: gelu"));
}

TEST(Decoder, BlocksOwnTheirWeightsAndReleaseTheSource) {
  const ModelConfig config = SmallConfig();
  RandomWeights source(config, Row(config));
  const auto decoder = Decoder::Create(config, source, {});
  ASSERT_TRUE(decoder.ok());
  auto block = decoder->LoadBlock(0, source);
  ASSERT_TRUE(block.ok());
  EXPECT_EQ(source.held, 0) << "every tensor read must be released";
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  block->linear("mlp.up_proj").weight.zero_();
  EXPECT_GT(source.tensors[name].abs().sum().item<float>(), 0)
      << "a block must not alias its source";
  EXPECT_TRUE(block->SetWeight("mlp.up_proj", source.tensors[name].to(at::kHalf)).ok());
  EXPECT_EQ(block->linear("mlp.up_proj").weight.scalar_type(), at::kFloat);
  EXPECT_TRUE(absl::IsInvalidArgument(block->SetWeight("mlp.up_proj", at::zeros({3, 3}))));
}

class Recorder : public LinearHook {
 public:
  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override {
    if (module == fail_at) return absl::CancelledError("enough");
    names.emplace_back(module);
    inputs.push_back(input);
    return absl::OkStatus();
  }
  std::string fail_at;
  std::vector<std::string> names;
  std::vector<at::Tensor> inputs;
};

TEST(Decoder, HookSeesEveryLinearInOrderAndSharedInputsOnce) {
  for (const Architecture& row : Architectures()) {
    SCOPED_TRACE(std::string(row.name));
    const ModelConfig config = SmallConfig(row.name);
    const RandomWeights source(config, row);
    const auto decoder = Decoder::Create(config, source, {});
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    const auto block = decoder->LoadBlock(1, source);
    ASSERT_TRUE(block.ok());
    const at::Tensor hidden = *decoder->Embed(Ids(2, 30));
    Recorder hook;
    ASSERT_TRUE(decoder->Forward(*block, hidden, {.hook = &hook}).ok());
    const std::vector<LinearShape> linears = Linears(config, row, 1);
    ASSERT_EQ(hook.names.size(), linears.size());
    for (size_t i = 0; i < linears.size(); ++i) {
      EXPECT_EQ(hook.names[i], linears[i].module);
      EXPECT_EQ(hook.inputs[i].size(-1), linears[i].in);
      EXPECT_EQ(block->linear(linears[i].module).weight.size(0), linears[i].out);
      if (i == 0) continue;
      EXPECT_EQ(hook.inputs[i].is_same(hook.inputs[i - 1]),
                linears[i].group == linears[i - 1].group);
    }
    hook.fail_at = linears.back().module;
    EXPECT_TRUE(absl::IsCancelled(decoder->Forward(*block, hidden, {.hook = &hook}).status()));
  }
}

TEST(Model, CacheChunksAndPaddingDoNotChangeTheNumbers) {
  for (const Architecture& row : Architectures()) {
    SCOPED_TRACE(std::string(row.name));
    const ModelConfig config = SmallConfig(row.name);
    const RandomWeights source(config, row);
    const auto model = Model::Load(config, source, {});
    ASSERT_TRUE(model.ok()) << model.status();
    const at::Tensor ids = Ids(2, 23);
    const at::Tensor whole = *model->Forward(ids);
    KvCache cache(config.layers);
    std::vector<at::Tensor> parts;
    for (int64_t at = 0, step = 1; at < 23; at += step, step = step % 4 + 1) {
      step = std::min(step, 23 - at);
      parts.push_back(*model->Forward(ids.narrow(1, at, step), &cache));
    }
    EXPECT_TRUE(Close(at::cat(parts, 1), whole));
    EXPECT_EQ(cache.length(1), 23);
    // On the right it is invisible; on the left the cache hides it.
    const at::Tensor right = at::cat({ids, Ids(2, 4)}, 1);
    EXPECT_TRUE(Close(model->Forward(right)->narrow(1, 0, 23), whole));
    KvCache padded(config.layers, {6, 6});
    const at::Tensor left = at::cat({at::zeros({2, 6}, at::kLong), ids}, 1);
    EXPECT_TRUE(Close(model->Forward(left, &padded)->narrow(1, 6, 23), whole));
  }
}

TEST(Model, ChunkedLogitsAreTheLogits) {
  const ModelConfig config = SmallConfig();
  const RandomWeights source(config, Row(config));
  const auto model = Model::Load(config, source, {});
  ASSERT_TRUE(model.ok());
  const at::Tensor hidden = *model->Forward(Ids(2, 9));
  const at::Tensor logits = *model->decoder().Logits(hidden);
  EXPECT_EQ(logits.scalar_type(), at::kFloat);
  std::vector<at::Tensor> parts;
  int64_t next = 0;
  ASSERT_TRUE(model->decoder()
                  .LogitsChunked(hidden, 5,
                                 [&](int64_t first, const at::Tensor& part) {
                                   EXPECT_EQ(first, next);
                                   EXPECT_LE(part.size(0), 5);
                                   next += part.size(0);
                                   parts.push_back(part);
                                   return absl::OkStatus();
                                 })
                  .ok());
  EXPECT_EQ(next, 18);
  EXPECT_TRUE(Close(at::cat(parts, 0).view_as(logits), logits));
}

TEST(Model, GenerationIsTheSameAloneAndTogether) {
  const ModelConfig config = SmallConfig();
  const RandomWeights source(config, Row(config));
  const auto model = Model::Load(config, source, {});
  ASSERT_TRUE(model.ok());
  const std::vector<std::vector<int64_t>> prompts = {{1, 2, 3, 4, 5, 6, 7}, {9}, {4, 4, 30}};
  GenerateOptions options;
  options.new_tokens_max = 12;
  int steps = 0;
  options.on_step = [&](absl::Span<const int64_t> tokens) {
    ++steps;
    EXPECT_EQ(tokens.size(), 3u);
    return absl::OkStatus();
  };
  const auto together = model->Generate(prompts, options);
  ASSERT_TRUE(together.ok()) << together.status();
  EXPECT_EQ(steps, 12);
  options.on_step = nullptr;
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ((*model->Generate({prompts[i]}, options))[0], (*together)[i]);
  }
  // A stop token ends its own sequence and is part of it.
  options.stop_ids = {(*together)[0][4]};
  const auto stopped = (*model->Generate({prompts[0]}, options))[0];
  EXPECT_EQ(stopped.back(), options.stop_ids[0]);
  EXPECT_LE(stopped.size(), 5u);
  EXPECT_TRUE(absl::IsInvalidArgument(model->Generate({{}}, options).status()));
  EXPECT_TRUE(model->Generate({}, options)->empty());
  options.on_step = [](absl::Span<const int64_t>) { return absl::CancelledError("stop"); };
  EXPECT_TRUE(absl::IsCancelled(model->Generate({{1}}, options).status()));
}

TEST(Attend, WindowAndStartsHideKeys) {
  ASSERT_TRUE(SetDeterministic(kTestSeed).ok());
  const at::Tensor q = at::randn({1, 4, 6, 8}), k = at::randn({1, 2, 6, 8}),
                   v = at::randn({1, 2, 6, 8});
  const at::Tensor narrow = Attend(q, k, v, {.window = 2});
  // With a window of two the last query sees keys 4 and 5 alone.
  const at::Tensor last = Attend(q.narrow(2, 5, 1), k.narrow(2, 4, 2), v.narrow(2, 4, 2), {});
  EXPECT_TRUE(Close(narrow.narrow(2, 5, 1), last));
  EXPECT_FALSE(Close(Attend(q, k, v, {}).narrow(2, 5, 1), last));
  // The first query sees itself alone, so it gets its own value.
  EXPECT_TRUE(Close(narrow[0][0][0], v[0][0][0]));
  const std::vector<int64_t> starts = {4};
  const at::Tensor padded = Attend(q, k, v, {.starts = &starts});
  EXPECT_TRUE(Close(padded.narrow(2, 5, 1), last));
  EXPECT_FALSE(padded.isnan().any().item<bool>());
}

TEST(Inspect, TellsWhatAFolderHolds) {
  const auto real = InspectModel(QUANTD_SOURCE_DIR "/models/tiny-6m");
  ASSERT_TRUE(real.ok()) << real.status();
  EXPECT_TRUE(real->at("supported"));
  EXPECT_EQ(real->at("parameters"), 5770496);
  EXPECT_EQ(real->at("tokenizer"), "tokenizer.json");
  EXPECT_EQ(real->at("dtypes").size(), 1u);
  const TempFolder folder;
  folder.Add("config.json", R"({"architectures": ["BloomForCausalLM"], "n_embed": 4})");
  const auto foreign = InspectModel(folder.path());
  ASSERT_TRUE(foreign.ok()) << foreign.status();
  EXPECT_FALSE(foreign->at("supported"));
  EXPECT_THAT(foreign->at("reason").get<std::string>(), HasSubstr("BloomForCausalLM"));
  EXPECT_FALSE(InspectModel(folder.path() + "/none").ok());
}

}  // namespace
}  // namespace quantd::engine
