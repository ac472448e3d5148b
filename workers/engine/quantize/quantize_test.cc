// Whole jobs on the bundled model: what comes out, what is refused before work, and that a job that
// was killed after any block goes on to the same bytes.
#include <gmock/gmock.h>

#include <map>

#include "base/sha256.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/formats/open.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/job/stopping_sink_test.h"
#include "workers/engine/quantize/job_test.h"
#include "workers/engine/quantize/quantize_job.h"

namespace quantd::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

QuantizeSpec Spec(const std::string& method, nlohmann::json options = nlohmann::json::object()) {
  QuantizeSpec spec;
  spec.model = TinyModel();
  spec.method = method;
  spec.options = std::move(options);
  spec.calibration.sequences = 3;
  spec.calibration.sequence_length = 96;
  spec.calibration.batch_size = 2;
  return spec;
}

absl::StatusOr<nlohmann::json> Quantize(const JobFolders& folders, const QuantizeSpec& spec) {
  RecordingSink events;
  const CancelToken cancel;
  JobContext context = folders.Context(events, cancel);
  return RunQuantize(context, spec);
}

std::map<std::string, std::string> Digests(const std::string& folder) {
  std::map<std::string, std::string> digests;
  for (const char* name : {"model.safetensors", "config.json", "quantize_config.json",
                           "verification_probe.json", "README.md", "tokenizer.json"}) {
    const auto digest = Sha256File(folder + "/" + name);
    EXPECT_TRUE(digest.ok()) << digest.status();
    digests[name] = digest.ok() ? *digest : "";
  }
  return digests;
}

TEST(QuantizeTest, RtnResult) {
  const JobFolders folders;
  const auto result = Quantize(folders, Spec("rtn", {{"bits", 8}, {"group_size", -1}}));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["bits"], 8);
  EXPECT_GT((*result)["compressionRatio"].get<double>(), 1.3);
  EXPECT_EQ((*result)["modules"].size(), 6 * 7);
  const auto metadata =
      nlohmann::json::parse(*ReadFile(folders.out() + "/quantization_metadata.json"));
  for (const char* name :
       {"method", "model", "model_digest", "options", "quantization_seconds", "size_before_mb",
        "size_after_mb", "compression_ratio", "peak_host_bytes", "peak_device_bytes", "timestamp",
        "versions", "seed", "attempts", "fallbacks"}) {
    EXPECT_TRUE(metadata.contains(name)) << name;
  }
}

TEST(QuantizeTest, ResumesAfterEveryBlockToTheSameBytes) {
  for (const auto& [method, options] : std::map<std::string, nlohmann::json>{
           {"rtn", {{"bits", 3}}},
           {"gptq", {{"bits", 3}, {"group_size", 64}, {"input_correction", 0.5}}},
           {"adaround", {{"bits", 3}, {"steps", 3}, {"step_sequences", 2}}}}) {
    const QuantizeSpec spec = Spec(method, options);
    const JobFolders whole;
    ASSERT_TRUE(Quantize(whole, spec).ok());
    const JobFolders pieces;
    for (int stops = 0; stops < 5; ++stops) {
      const CancelToken cancel;
      StoppingSink events(1, cancel);
      JobContext context = pieces.Context(events, cancel);
      EXPECT_EQ(RunQuantize(context, spec).status().code(), absl::StatusCode::kCancelled);
    }
    const auto result = Quantize(pieces, spec);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ((*result)["attempts"], 6);
    EXPECT_EQ(Digests(whole.out()), Digests(pieces.out())) << method;
  }
}

TEST(QuantizeTest, LearnedRoundingLearns) {
  for (const char* variant : {"signround", "adaround"}) {
    const JobFolders folders;
    const auto result =
        Quantize(folders, Spec("adaround", {{"bits", 2}, {"variant", variant}, {"steps", 25}}));
    ASSERT_TRUE(result.ok()) << result.status();
    const auto metadata =
        nlohmann::json::parse(*ReadFile(folders.out() + "/quantization_metadata.json"));
    ASSERT_EQ(metadata["notes"].size(), 6) << metadata["notes"];
    for (const auto& [name, note] : metadata["notes"].items()) {
      EXPECT_LT(note["best_loss"], note["first_loss"]) << name;
    }
  }
  const JobFolders folders;
  const auto layers =
      Quantize(folders, Spec("adaround", {{"bits", 2}, {"objective", "layer"}, {"steps", 10}}));
  ASSERT_TRUE(layers.ok()) << layers.status();
  EXPECT_EQ((*layers)["modules"].size(), 6 * 7);
}

TEST(QuantizeTest, AnotherSpecStartsAnew) {
  const JobFolders folders;
  ASSERT_TRUE(Quantize(folders, Spec("rtn", {{"bits", 4}})).ok());
  const auto result = Quantize(folders, Spec("rtn", {{"bits", 8}}));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["attempts"], 1);
  EXPECT_EQ((*result)["bits"], 8);
}

TEST(QuantizeTest, ADamagedBlockIsDoneAgain) {
  const JobFolders folders;
  const QuantizeSpec spec = Spec("rtn");
  ASSERT_TRUE(Quantize(folders, spec).ok());
  const auto before = Digests(folders.out());
  const std::string block = folders.work() + "/blocks/block_0002.safetensors";
  ASSERT_TRUE(WriteFileAtomic(block, "damaged").ok());
  ASSERT_TRUE(Quantize(folders, spec).ok());
  EXPECT_EQ(Digests(folders.out()), before);
}

TEST(QuantizeTest, OverridesAndHead) {
  const JobFolders folders;
  QuantizeSpec spec = Spec("gptq", {{"bits", 4}, {"group_size", 64}});
  spec.overrides = {
      {.pattern = "down_proj$", .skip = false, .options = {{"bits", 8}, {"group_size", -1}}},
      {.pattern = "layers\\.0\\.self_attn", .skip = true, .options = nlohmann::json::object()}};
  const auto result = Quantize(folders, spec);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["modules"].size(), 6 * 7 - 4);
  const auto checkpoint = Checkpoint::Open(folders.out());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->Has("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_FALSE((*checkpoint)->Has("model.layers.1.self_attn.q_proj.weight"));
  const auto source = OpenWeights(*checkpoint);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_TRUE((*source)->Read("model.layers.5.mlp.down_proj.weight").ok());
}

// What the files say is what ran in memory: the transforms come back with the weights.
TEST(QuantizeTest, OnlineTransformsAreInTheFiles) {
  const JobFolders folders;
  QuantizeSpec spec =
      Spec("quarot",
           {{"weights", "rtn"}, {"group_size", 64}, {"online_rotation", true}, {"kv_bits", 4}});
  EXPECT_THAT(std::string(Quantize(folders, spec).status().message()),
              AllOf(HasSubstr("format gptq"), HasSubstr("compressed-tensors")));
  spec.options["activation_bits"] = 4;
  spec.format = "compressed-tensors";
  spec.overrides = {{.pattern = "layers\\.2\\.mlp\\.down_proj",
                     .skip = true,
                     .options = nlohmann::json::object()}};
  const auto result = Quantize(folders, spec);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto checkpoint = Checkpoint::Open(folders.out());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ModelConfig& config = (*checkpoint)->config();
  EXPECT_EQ(config.cache.bits, 4);
  EXPECT_EQ(config.cache.rotation, config.head_dim);
  const auto source = OpenWeights(*checkpoint);
  ASSERT_TRUE(source.ok()) << source.status();
  const std::string down = "model.layers.1.mlp.down_proj.weight";
  EXPECT_EQ((*source)->InputRounding(down).kind, InputKind::kInt4PerToken);
  EXPECT_GT((*source)->InputRounding(down).rotation, 1);
  const std::string skipped = "model.layers.2.mlp.down_proj.weight";
  EXPECT_EQ((*source)->InputRounding(skipped).kind, InputKind::kFloat);
  EXPECT_GT((*source)->InputRounding(skipped).rotation, 1);
  EXPECT_EQ((*source)->InputRounding("model.layers.1.mlp.up_proj.weight").rotation, 0);
}

TEST(QuantizeTest, RefusesBeforeWork) {
  const JobFolders folders;
  const auto refusal = [&](const QuantizeSpec& spec) {
    return std::string(Quantize(folders, spec).status().message());
  };
  EXPECT_THAT(refusal(Spec("magic")), AllOf(HasSubstr("gptq"), HasSubstr("rtn")));
  EXPECT_THAT(refusal(Spec("rtn", {{"bits", 5}})), HasSubstr("bits"));
  EXPECT_THAT(refusal(Spec("rtn", {{"colour", 1}})), HasSubstr("colour"));
  EXPECT_THAT(refusal(Spec("rtn", {{"quantize_head", true}})), HasSubstr("tie_word_embeddings"));
  EXPECT_THAT(refusal(Spec("gptq", {{"static_groups", true}})), HasSubstr("desc_act"));
  QuantizeSpec spec = Spec("rtn");
  spec.overrides = {{.pattern = "(", .skip = true, .options = nlohmann::json::object()}};
  EXPECT_THAT(refusal(spec), HasSubstr("regular expression"));
  spec.overrides = {{.pattern = "no_such", .skip = true, .options = nlohmann::json::object()}};
  EXPECT_THAT(refusal(spec), HasSubstr("matches no module"));
  spec = Spec("gptq");
  spec.calibration.sequence_length = 1 << 20;
  EXPECT_THAT(refusal(spec), HasSubstr("max_position_embeddings"));
  spec = Spec("rtn");
  spec.format = "bitsandbytes";
  EXPECT_THAT(refusal(spec), HasSubstr("bitsandbytes"));
}

TEST(QuantizeTest, KeepsItsMemoryPromise) {
  const JobFolders folders;
  RecordingSink events;
  const CancelToken cancel;
  JobContext context = folders.Context(events, cancel);
  context.spec.runtime.host_memory_bytes = 100 << 20;
  const auto result = RunQuantize(context, Spec("rtn"));
  EXPECT_EQ(ErrorClassOf(result.status()), ErrorClass::kOutOfMemory);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("needs about"));
}

TEST(QuantizeTest, Estimates) {
  const JobFolders folders;
  RecordingSink events;
  const CancelToken cancel;
  JobContext context = folders.Context(events, cancel);
  const auto estimate = EstimateQuantize(context, Spec("gptq"));
  ASSERT_TRUE(estimate.ok()) << estimate.status();
  EXPECT_GT(estimate->host_memory_bytes, 0);
  EXPECT_EQ(estimate->device_memory_bytes, 0);
  EXPECT_GT(estimate->disk_bytes, 1 << 20);
  EXPECT_GT(estimate->seconds, 0);
}

}  // namespace
}  // namespace quantd::engine
