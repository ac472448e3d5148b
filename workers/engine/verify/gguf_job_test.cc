// Whole jobs into a GGUF file: what is written is verified, found again by file and by folder, the
// same after an interruption, and damage is found.
#include <gmock/gmock.h>

#include "base/sha256.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/formats/gguf_format.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/job/stopping_sink_test.h"
#include "workers/engine/quantize/job_test.h"
#include "workers/engine/quantize/quantize_job.h"
#include "workers/engine/verify/verify_job.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<nlohmann::json> Quantize(const JobFolders& folders, const std::string& method,
                                        nlohmann::json options, int stop_after = 0) {
  // Stops the job when so many blocks are on disk.
  const CancelToken cancel;
  StoppingSink events(stop_after, cancel);
  JobContext context = folders.Context(events, cancel);
  QuantizeSpec spec;
  spec.model = TinyModel();
  spec.method = method;
  spec.format = "gguf";
  spec.options = std::move(options);
  spec.calibration.sequences = 3;
  spec.calibration.sequence_length = 64;
  return RunQuantize(context, spec);
}

absl::StatusOr<nlohmann::json> Verify(const JobFolders& folders, const std::string& model) {
  RecordingSink events;
  const CancelToken cancel;
  JobContext context = folders.Context(events, cancel);
  return RunVerify(context, {.model = model});
}

TEST(GgufJobTest, EveryTypeIsVerified) {
  for (const nlohmann::json& options :
       {nlohmann::json{{"type", "q4_k_m"}}, nlohmann::json{{"type", "q8_0"}},
        nlohmann::json{{"type", "q4_0"}, {"importance", true}},
        nlohmann::json{{"type", "q6_k"}, {"embedding", "q4_k"}}, nlohmann::json{{"type", "f16"}}}) {
    const JobFolders folders;
    const auto result = Quantize(folders, "gguf", options);
    ASSERT_TRUE(result.ok()) << options << result.status();
    for (const std::string& model : {folders.out(), folders.out() + "/model.gguf"}) {
      const auto verified = Verify(folders, model);
      EXPECT_TRUE(verified.ok()) << options << verified.status();
    }
  }
}

TEST(GgufJobTest, MixtureGivesSomeLayersMore) {
  const JobFolders folders;
  ASSERT_TRUE(Quantize(folders, "gguf", {{"type", "q4_k_m"}}).ok());
  const auto file = GgufFile::Open(folders.out() + "/model.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto type = [&](const std::string& name) { return (*file)->Find(name)->type; };
  EXPECT_EQ(type("token_embd.weight"), kernels::GgufType::kQ6K);  // It is the head too.
  EXPECT_EQ(type("blk.0.attn_q.weight"), kernels::GgufType::kQ4K);
  EXPECT_EQ(type("blk.2.ffn_down.weight"), kernels::GgufType::kQ6K);
  EXPECT_EQ(type("blk.5.attn_v.weight"), kernels::GgufType::kQ6K);
  EXPECT_EQ(type("blk.0.ffn_down.weight"), kernels::GgufType::kQ4K);
  EXPECT_EQ(type("blk.0.attn_norm.weight"), kernels::GgufType::kF32);
  EXPECT_EQ((*file)->Find("output.weight"), nullptr);
}

TEST(GgufJobTest, AnotherMethodGoesIntoSixteenBits) {
  const JobFolders folders;
  const auto result = Quantize(folders, "rtn", {{"bits", 4}, {"group_size", 32}});
  ASSERT_TRUE(result.ok()) << result.status();
  const auto verified = Verify(folders, folders.out());
  EXPECT_TRUE(verified.ok()) << verified.status();
  const auto checkpoint = Checkpoint::Open(folders.out());
  EXPECT_TRUE((*checkpoint)->Has("model.layers.0.self_attn.q_proj.gguf_f16"));
}

TEST(GgufJobTest, ResumesToTheSameBytes) {
  const JobFolders whole;
  ASSERT_TRUE(Quantize(whole, "gguf", {{"type", "q4_k_m"}, {"importance", true}}).ok());
  const JobFolders resumed;
  EXPECT_FALSE(Quantize(resumed, "gguf", {{"type", "q4_k_m"}, {"importance", true}}, 3).ok());
  ASSERT_TRUE(Quantize(resumed, "gguf", {{"type", "q4_k_m"}, {"importance", true}}).ok());
  EXPECT_EQ(*Sha256File(whole.out() + "/model.gguf"), *Sha256File(resumed.out() + "/model.gguf"));
}

TEST(GgufJobTest, DamageIsFound) {
  const JobFolders folders;
  ASSERT_TRUE(Quantize(folders, "gguf", {{"type", "q4_0"}}).ok());
  const std::string path = folders.out() + "/model.gguf";
  const std::string bytes = *ReadFile(path);
  std::string damaged = bytes;
  damaged[damaged.size() - 5000] = static_cast<char>(damaged[damaged.size() - 5000] ^ 0x40);
  ASSERT_TRUE(WriteFileAtomic(path, damaged).ok());
  const auto status = Verify(folders, folders.out()).status();
  EXPECT_EQ(ErrorClassOf(status), ErrorClass::kVerificationFailed);
  EXPECT_THAT(std::string(status.message()), HasSubstr("digest"));
  ASSERT_TRUE(WriteFileAtomic(path, bytes.substr(0, bytes.size() - 100)).ok());
  EXPECT_EQ(ErrorClassOf(Verify(folders, folders.out()).status()), ErrorClass::kVerificationFailed);
}

}  // namespace
}  // namespace quantd::engine
