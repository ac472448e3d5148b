// Folded scales leave every architecture's block what it computes, and the methods that choose them
// lower the error of its output.
#include "workers/engine/methods/folding.h"

#include <ATen/ops/rand.h>
#include <gmock/gmock.h>

#include <algorithm>

#include "workers/engine/methods/awq.h"
#include "workers/engine/methods/clip_search.h"
#include "workers/engine/methods/memory_block_job.h"
#include "workers/engine/methods/rtn.h"
#include "workers/engine/methods/smoothquant.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

double LargestDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>() / b.abs().max().item<double>();
}

TEST(FoldingTest, LeavesEveryBlockWhatItComputes) {
  for (const Architecture& row : Architectures()) {
    MemoryBlockJob job(SmallConfig(row.name), nlohmann::json::object());
    const std::vector<Fold> folds = UsableFolds(job);
    EXPECT_TRUE(job.fallbacks.empty()) << row.name;
    ASSERT_FALSE(folds.empty()) << row.name;
    for (const Fold& fold : folds) {
      const int64_t columns = static_cast<int64_t>(fold.row_of_column.size());
      const at::Tensor scales = ShareScales(fold, at::rand({columns}) * 3 + 0.2);
      ASSERT_TRUE(ApplyFold(job, fold, scales).ok());
      // Biases are rounded to 16 bits, and so are routers, where more depends on it; norms are made
      // up for.
      const double bound = !row.router.empty() ? 0.1 : row.norm == NormKind::kLayer ? 2e-2 : 2e-3;
      EXPECT_LT(LargestDifference(job.Outputs(*job.FloatBlock()), job.original()), bound)
          << row.name << " " << fold.previous;
    }
    EXPECT_GT(job.edits, 0);
  }
}

TEST(FoldingTest, LayersThatStayAsTheyAreTakeNoScale) {
  MemoryBlockJob job(SmallConfig(), nlohmann::json::object());
  const size_t all = UsableFolds(job).size();
  std::erase_if(job.mutable_linears(), [](const BlockJob::LinearInfo& linear) {
    return linear.shape.module == "self_attn.v_proj";
  });
  EXPECT_EQ(UsableFolds(job).size(), all - 2);  // Norm to q, k, v, and v to the output.
  ASSERT_EQ(job.fallbacks.size(), 2);
  EXPECT_EQ(job.fallbacks[0].kind, "fold");
  EXPECT_THAT(job.fallbacks[0].module, HasSubstr("v_proj"));
}

TEST(AwqTest, LowersTheErrorOfEveryArchitecture) {
  for (const Architecture& row : Architectures()) {
    // Rows of 32 and 48 columns: groups of all of them.
    const nlohmann::json options = *ResolveOptions(*Awq(), {{"bits", 3}, {"group_size", -1}});
    MemoryBlockJob job(SmallConfig(row.name), options);
    const double before = job.Error(job.Quantized(*Awq()));
    const absl::Status status = Awq()->PrepareBlock(job);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_LT(job.Error(job.Quantized(*Awq())), before) << row.name;
    EXPECT_EQ(job.notes.size(), 1);
  }
}

TEST(AwqTest, SearchesCanBeLeftOut) {
  const auto edits = [](nlohmann::json given) {
    given["group_size"] = -1;
    MemoryBlockJob job(SmallConfig(), *ResolveOptions(*Awq(), given));
    EXPECT_TRUE(Awq()->PrepareBlock(job).ok());
    return job.edits;
  };
  EXPECT_EQ(edits({{"scale_search", false}, {"clip_search", false}}), 0);
  EXPECT_EQ(edits({{"scale_search", false}}), 5);  // All but q and k are clipped.
  EXPECT_GT(edits({{"clip_search", false}}), 5);
}

TEST(ClipTest, GroupsOfAllColumnsAndOfSome) {
  for (const int64_t group : {-1, 32}) {
    ModelConfig config = SmallConfig("LlamaForCausalLM");
    config.hidden_size = config.intermediate_size = 64;
    config.head_dim = 16;
    const nlohmann::json options = *ResolveOptions(*Rtn(), {{"bits", 3}, {"group_size", group}});
    MemoryBlockJob job(config, options);
    const double before = job.Error(job.Quantized(*Rtn()));
    ASSERT_TRUE(ClipBlock(job).ok());
    EXPECT_LT(job.Error(job.Quantized(*Rtn())), before) << group;
  }
}

TEST(SmoothQuantTest, SmoothingHelpsAndAlphaCanBeSearched) {
  const auto error = [](const nlohmann::json& given, double* alpha) {
    MemoryBlockJob job(SmallConfig("LlamaForCausalLM"), *ResolveOptions(*SmoothQuant(), given));
    // Norms make outliers of a few columns.
    at::Tensor norm = *job.Read("model.layers.0.input_layernorm.weight");
    norm.narrow(0, 3, 2) *= 60;
    EXPECT_TRUE(job.Edit("model.layers.0.input_layernorm.weight", norm).ok());
    const at::Tensor wanted = job.Outputs(*job.FloatBlock());
    EXPECT_TRUE(SmoothQuant()->PrepareBlock(job).ok());
    *alpha = job.notes["smoothquant.block_0"]["alpha"].get<double>();
    return (job.Outputs(job.Quantized(*SmoothQuant())) - wanted).square().mean().item<double>();
  };
  double alpha = 0;
  const double fixed = error({{"alpha", 0.5}}, &alpha);
  EXPECT_EQ(alpha, 0.5);
  EXPECT_LT(fixed, error({{"alpha", 0.0}}, &alpha));
  const double usual = error(nlohmann::json::object(), &alpha);
  EXPECT_EQ(alpha, 0.8);  // This config has no model_type.
  const double searched = error({{"alpha_search", true}}, &alpha);
  // Rounding noise of so small a block moves the errors by a fifth.
  EXPECT_LE(searched, 1.5 * std::min(fixed, usual));
}

TEST(SmoothQuantTest, StaticScalesComeFromCalibration) {
  const nlohmann::json options = *ResolveOptions(*SmoothQuant(), {{"activations", "static"}});
  const InputStatistics statistics = {.absmax = at::tensor({0.5f, 12.7f, 3.0f, 1.0f}), .tokens = 9};
  LinearJob job = {.name = "m",
                   .weight = at::tensor({1.f, -2.f, 0.5f, 0.f}).view({1, 4}),
                   .statistics = &statistics,
                   .options = &options};
  const auto result = SmoothQuant()->Quantize(job);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto& linear = std::get<QuantizedLinear>(result->linear);
  EXPECT_EQ(linear.input.kind, InputKind::kInt8PerTensor);
  EXPECT_FLOAT_EQ(linear.input.scale, 0.1f);
  EXPECT_EQ(linear.codes[0][1].item<int>(), 1);  // -127.
  const InputStatistics nothing = {};
  job.statistics = &nothing;
  EXPECT_EQ(SmoothQuant()->Quantize(job)->fallbacks.size(), 1);
}

TEST(SmoothQuantTest, RefusesTwoAlphas) {
  EXPECT_THAT(std::string(ResolveOptions(*SmoothQuant(), {{"alpha", 0.5}, {"alpha_search", true}})
                              .status()
                              .message()),
              HasSubstr("alpha_search"));
  EXPECT_FALSE(ResolveOptions(*SmoothQuant(), {{"alpha", -0.5}}).ok());
}

}  // namespace
}  // namespace quantd::engine
