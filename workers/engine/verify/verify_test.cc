// A quantized tiny-6m passes; each kind of damage to the files is found by the check that is meant
// to find it.
#include <gmock/gmock.h>

#include <fstream>

#include "workers/engine/job/failure.h"
#include "workers/engine/quantize/job_test.h"
#include "workers/engine/quantize/quantize_job.h"
#include "workers/engine/verify/verify_job.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

class VerifyTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folders_ = new JobFolders;
    RecordingSink events;
    const CancelToken cancel;
    JobContext context = folders_->Context(events, cancel);
    QuantizeSpec spec;
    spec.model = TinyModel();
    spec.method = "rtn";
    const auto result = RunQuantize(context, spec);
    ASSERT_TRUE(result.ok()) << result.status();
  }
  static void TearDownTestSuite() { delete folders_; }

  absl::StatusOr<nlohmann::json> Verify() {
    RecordingSink events;
    const CancelToken cancel;
    JobContext context = folders_->Context(events, cancel);
    return RunVerify(context, {.model = folders_->out()});
  }

  std::string Path(const char* name) { return folders_->out() + "/" + name; }
  static JobFolders* folders_;
};
JobFolders* VerifyTest::folders_ = nullptr;

TEST_F(VerifyTest, PassesWhatWasWritten) {
  const auto result = Verify();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)["passed"], true);
  EXPECT_EQ((*result)["checks"].size(), 8);
}

TEST_F(VerifyTest, FindsAFlippedBit) {
  const std::string bytes = *ReadFile(Path("model.safetensors"));
  std::string damaged = bytes;
  damaged[damaged.size() - 5000] = static_cast<char>(damaged[damaged.size() - 5000] ^ 0x40);
  ASSERT_TRUE(WriteFileAtomic(Path("model.safetensors"), damaged).ok());
  const auto result = Verify();
  ASSERT_TRUE(WriteFileAtomic(Path("model.safetensors"), bytes).ok());
  EXPECT_EQ(ErrorClassOf(result.status()), ErrorClass::kVerificationFailed);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("digest"));
}

TEST_F(VerifyTest, FindsTruncationAndMissingRecords) {
  const std::string bytes = *ReadFile(Path("model.safetensors"));
  ASSERT_TRUE(WriteFileAtomic(Path("model.safetensors"), bytes.substr(0, bytes.size() - 10)).ok());
  EXPECT_EQ(ErrorClassOf(Verify().status()), ErrorClass::kVerificationFailed);
  ASSERT_TRUE(WriteFileAtomic(Path("model.safetensors"), bytes).ok());

  const std::string probe = *ReadFile(Path("verification_probe.json"));
  ASSERT_TRUE(RemoveTree(Path("verification_probe.json")).ok());
  EXPECT_THAT(std::string(Verify().status().message()), HasSubstr("records"));
  ASSERT_TRUE(WriteFileAtomic(Path("verification_probe.json"), probe).ok());
}

TEST_F(VerifyTest, FindsOtherLogits) {
  const std::string text = *ReadFile(Path("verification_probe.json"));
  nlohmann::json probe = nlohmann::json::parse(text);
  probe["positions"][0]["logits"][3] = probe["positions"][0]["logits"][3].get<double>() + 0.01;
  ASSERT_TRUE(WriteFileAtomic(Path("verification_probe.json"), probe.dump()).ok());
  const auto result = Verify();
  ASSERT_TRUE(WriteFileAtomic(Path("verification_probe.json"), text).ok());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("logits differ"));
}

}  // namespace
}  // namespace quantd::engine
