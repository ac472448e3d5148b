// The benchmark's arithmetic, and the job on the bundled model: what it records, in turns with a
// baseline, and what it skips. No test looks at a time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "workers/engine/benchmark/benchmark_job.h"
#include "workers/engine/benchmark/clocks.h"
#include "workers/engine/benchmark/timing.h"

namespace quantd::engine {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

const std::string kModel = QUANTD_SOURCE_DIR "/models/tiny-6m";

TEST(Timing, RowsAreMediansAndRatiosPaired) {
  const BenchmarkSetting setting{.batch = 2, .prompt = 10, .decode = 3};
  const std::vector<Timing> model = {{0.5, {0.1, 0.1}}, {1.0, {0.2, 0.2}}, {2.0, {0.1, 0.3}}};
  const json row = SettingRow(setting, model);
  EXPECT_DOUBLE_EQ(row["prefillTokensPerSecond"], 20 / 1.0);
  EXPECT_DOUBLE_EQ(row["timeToFirstTokenMs"], 1000);
  EXPECT_DOUBLE_EQ(row["decodeTokensPerSecond"], 2 * 2 / 0.4);
  EXPECT_DOUBLE_EQ(row["sampleLatencyMs"]["p50"], 1400);
  EXPECT_DOUBLE_EQ(row["latencyMs"]["p50"], 150);
  EXPECT_DOUBLE_EQ(row["spread"]["prefillTokensPerSecond"]["min"], 10);
  EXPECT_DOUBLE_EQ(row["spread"]["prefillTokensPerSecond"]["max"], 40);
  // Both slow down together in the third repetition: the ratio of the pairs does not see it.
  const std::vector<Timing> baseline = {{1.0, {0.2, 0.2}}, {2.0, {0.4, 0.4}}, {4.0, {0.2, 0.6}}};
  const json ratios = SpeedRatios(model, baseline);
  for (const char* part : {"prefill", "decode", "sample"}) {
    for (const char* of : {"min", "median", "max"}) {
      EXPECT_DOUBLE_EQ(ratios[part][of], 2) << part << " " << of;
    }
  }
  // One new token has no decoding step.
  EXPECT_FALSE(SettingRow(setting, {{0.5, {}}}).contains("decodeTokensPerSecond"));
  EXPECT_FALSE(SpeedRatios({{0.5, {}}}, {{0.5, {}}}).contains("decode"));
}

TEST(Clocks, FastestCore) {
  EXPECT_DOUBLE_EQ(FastestCpuMhz("processor : 0\ncpu MHz\t\t: 2000.5\ncpu MHz : 3100\n"), 3100);
  EXPECT_DOUBLE_EQ(FastestCpuMhz("cpu MHz\nmodel name : x\n"), 0);
  ClockRange range;
  EXPECT_TRUE(range.empty());
  for (const double mhz : {0.0, 1500.0, 1400.0}) range.Add(mhz);
  EXPECT_EQ(range.Json(), json({{"minMhz", 1400.0}, {"maxMhz", 1500.0}}));
}

class BenchmarkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/quantd_benchmark_test.XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  absl::StatusOr<json> Run(const BenchmarkSpec& spec) {
    JobContext context{{}, {}, folder_, folder_, folder_, events_, cancel_, nullptr};
    context.spec.kind = spec;
    context.spec.runtime.device = "cpu";
    context.spec.runtime.threads = 1;
    context.spec.runtime.host_memory_bytes = host_memory_bytes_;
    return RunBenchmark(context, spec);
  }
  std::string folder_;
  int64_t host_memory_bytes_ = 0;
  RecordingSink events_;
  CancelToken cancel_;
};

TEST_F(BenchmarkTest, EverySettingInTurnsWithTheBaseline) {
  BenchmarkSpec spec;
  spec.model = spec.baseline = kModel;
  spec.batch_sizes = {1, 2};
  spec.prompt_lengths = {8, 1 << 20};
  spec.decode_tokens = 3;
  spec.repetitions = 3;
  const absl::StatusOr<json> result = Run(spec);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ((*result)["rows"].size(), 4u);
  EXPECT_THAT((*result)["rows"][1]["skipped"].get<std::string>(), HasSubstr("positions"));
  const json& row = (*result)["rows"][2];
  EXPECT_EQ(row["batch"], 2);
  for (const char* field : {"prefillTokensPerSecond", "decodeTokensPerSecond", "timeToFirstTokenMs",
                            "latencyMs", "sampleLatencyMs", "spread"}) {
    EXPECT_TRUE(row.contains(field)) << row.dump(2);
  }
  EXPECT_GT(row["ratio"]["decode"]["median"].get<double>(), 0);
  for (const char* field : {"loadSeconds", "sizeBytes", "weightsInMemoryBytes", "peakHostBytes",
                            "modelDigest", "device", "threads", "ratio", "warmup"}) {
    EXPECT_TRUE(result->contains(field)) << field;
  }
  EXPECT_EQ((*result)["baseline"]["modelDigest"], (*result)["modelDigest"]);
  EXPECT_EQ((*result)["baseline"]["rows"].size(), 2u);
  const std::vector<json> metrics = events_.Events("metric");
  EXPECT_EQ(metrics.size(), 4u) << "prefill and decode of each setting that was measured";
}

TEST_F(BenchmarkTest, ABaselineThatDoesNotFitBesideTheModelIsLeftOut) {
  BenchmarkSpec spec;
  spec.model = spec.baseline = kModel;
  spec.prompt_lengths = {8};
  spec.decode_tokens = 2;
  spec.repetitions = 1;
  // One model in float32 and the room to work that loading asks for; not two.
  host_memory_bytes_ = (int64_t{512} << 20) + (int64_t{30} << 20);
  const absl::StatusOr<json> result = Run(spec);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->contains("baseline"));
  EXPECT_FALSE(result->contains("ratio"));
  const std::vector<json> fallbacks = events_.Events("fallback");
  ASSERT_EQ(fallbacks.size(), 1u);
  EXPECT_EQ(fallbacks[0]["fallback"]["kind"], "no_baseline");
}

TEST_F(BenchmarkTest, NothingThatFitsIsAnError) {
  BenchmarkSpec spec;
  spec.model = kModel;
  spec.prompt_lengths = {1 << 20};
  const absl::StatusOr<json> result = Run(spec);
  EXPECT_TRUE(absl::IsInvalidArgument(result.status())) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("lower benchmark.promptLengths"));
  spec.prompt_lengths = {};
  spec.repetitions = -1;
  EXPECT_TRUE(absl::IsInvalidArgument(Run(spec).status()));
}

}  // namespace
}  // namespace quantd::engine
