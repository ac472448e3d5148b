// A rotated model computes what the original does, for every architecture that can be rotated, and
// its outliers are gone.
#include "workers/engine/methods/rotated_weights.h"

#include <ATen/ops/allclose.h>
#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "workers/engine/methods/quarot.h"
#include "workers/engine/models/model.h"
#include "workers/engine/models/test_util.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

struct Models {
  at::Tensor original, rotated;
  std::shared_ptr<const WeightSource> source;
};

Models Logits(ModelConfig config, bool tied, bool online) {
  config.tie_word_embeddings = tied;
  const Architecture& row = Row(config);
  Models models;
  const auto weights = std::make_shared<RandomWeights>(config, row);
  models.original = *Model::Load(config, *weights, {})->Logits(Ids(2, 20));
  const nlohmann::json options = *ResolveOptions(*QuaRot(), {{"online_rotation", online}});
  const auto transformed = QuaRot()->TransformModel(
      {.config = config, .row = row, .source = weights, .options = options, .seed = 3});
  EXPECT_TRUE(transformed.ok()) << transformed.status();
  models.source = (*transformed)->source;
  EXPECT_EQ((*transformed)->config_edits.contains("tie_word_embeddings"), tied);
  config.tie_word_embeddings = false;
  const auto model = Model::Load(config, *models.source, {});
  EXPECT_TRUE(model.ok()) << model.status();
  models.rotated = *model->Logits(Ids(2, 20));
  return models;
}

TEST(RotatedWeightsTest, TheSameLogitsForEveryArchitecture) {
  int rotated = 0;
  for (const Architecture& row : Architectures()) {
    const ModelConfig config = SmallConfig(row.name);
    if (!CheckRotatable(config, row).ok()) continue;
    ++rotated;
    for (const auto& [tied, online] : {std::pair(false, false), {true, false}, {false, true}}) {
      const Models models = Logits(config, tied, online);
      // Float32 noise: sums of 32 to 48 products over two blocks.
      EXPECT_TRUE(at::allclose(models.rotated, models.original, 2e-4, 2e-4))
          << row.name << tied << online << " "
          << (models.rotated - models.original).abs().max().item<double>();
    }
    const std::string down =
        absl::StrCat(BlockPrefix(row, 1), Linears(config, row, 1).back().module, ".weight");
    const Models online = Logits(config, false, true);
    EXPECT_GT(online.source->InputRounding(down).rotation, 1) << down;
    EXPECT_EQ(Logits(config, false, false).source->InputRounding(down).rotation, 0);
  }
  EXPECT_GE(rotated, 7);  // Llama, Mistral, Mixtral, Qwen 2, 3 and 3-MoE, Phi-3.
}

TEST(RotatedWeightsTest, NormsAreNeutralAndOutliersSpread) {
  ModelConfig config = SmallConfig("LlamaForCausalLM");
  config.hidden_size = 64;
  const Architecture& row = Row(config);
  const auto weights = std::make_shared<RandomWeights>(config, row);
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  weights->tensors[name].select(1, 5).mul_(100);
  const RotatedWeights rotated(config, row, weights, Rotation::Make(64, 1, true),
                               Rotation::Make(config.head_dim, 2, true));
  const at::Tensor norm = *rotated.Read("model.layers.1.post_attention_layernorm.weight");
  EXPECT_TRUE(norm.equal(at::ones({64})));
  const auto peak = [](const at::Tensor& w) {
    return (w.abs().amax(1) / w.square().mean(1).sqrt()).mean().item<double>();
  };
  EXPECT_GT(peak(weights->tensors[name]), 7);
  EXPECT_LT(peak(*rotated.Read(name)), 4);
}

TEST(RotatedWeightsTest, RefusesWhatARotationChanges) {
  for (const auto& [name, reason] : {std::pair<const char*, const char*>{"GPT2LMHeadModel", "mean"},
                                     {"PhiForCausalLM", "mean"},
                                     {"Gemma2ForCausalLM", "branches"}}) {
    const ModelConfig config = SmallConfig(name);
    const absl::Status status = CheckRotatable(config, Row(config));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
    EXPECT_THAT(std::string(status.message()), HasSubstr("gptq"));
  }
}

}  // namespace
}  // namespace quantd::engine
