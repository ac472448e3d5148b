// Text in, sequences out, by the protocol; every damaged file is an error with its place; second
// moments are those of a plain product.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <stdlib.h>

#include <map>
#include <vector>

#include "base/file.h"
#include "workers/engine/calibration/documents.h"
#include "workers/engine/calibration/sequences.h"
#include "workers/engine/calibration/statistics.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

class CalibrationTest : public testing::Test {
 protected:
  CalibrationTest() {
    char name[] = "/tmp/quantd_calibration_XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~CalibrationTest() override { RemoveTree(folder_).IgnoreError(); }

  absl::StatusOr<DocumentSet> Load(const std::string& name, absl::string_view bytes,
                                   absl::string_view field = "") {
    EXPECT_TRUE(WriteFileAtomic(folder_ + "/" + name, bytes).ok());
    return LoadDocuments(folder_ + "/" + name, field);
  }
  std::string Refusal(const std::string& name, absl::string_view bytes,
                      absl::string_view field = "") {
    return std::string(Load(name, bytes, field).status().message());
  }
  std::string folder_;
};

// One token a character, 1 before the text.
absl::StatusOr<std::vector<int64_t>> Encode(absl::string_view text, bool special) {
  std::vector<int64_t> ids;
  if (special) ids.push_back(1);
  for (const char c : text) ids.push_back(c);
  return ids;
}

TEST_F(CalibrationTest, OneBeginTokenADocument) {
  const auto set = Load("a.jsonl", "{\"text\": \"ab\"}\n\n{\"text\": \"cde\"}\n");
  ASSERT_TRUE(set.ok()) << set.status();
  const auto sequences =
      CutSequences(*set, Encode, {.sequences = 2, .length = 3, .vocabulary = 200});
  ASSERT_TRUE(sequences.ok()) << sequences.status();
  EXPECT_TRUE(
      sequences->ids.equal(at::tensor({1, 'a', 'b', 1, 'c', 'd'}, at::kLong).reshape({2, 3})));
  EXPECT_EQ(sequences->warning, "");
}

TEST_F(CalibrationTest, TokenIdsAreUsedAsTheyAre) {
  const auto set = Load("a.jsonl", "{\"ids\": [5, 6, 7, 8]}\n", "ids");
  ASSERT_TRUE(set.ok()) << set.status();
  const auto sequences = CutSequences(*set, Encode, {.sequences = 1, .length = 4, .vocabulary = 9});
  EXPECT_TRUE(sequences->ids.equal(at::tensor({5, 6, 7, 8}, at::kLong).reshape({1, 4})));
  EXPECT_THAT(std::string(CutSequences(*set, Encode, {.sequences = 1, .length = 4, .vocabulary = 8})
                              .status()
                              .message()),
              HasSubstr("token 8"));
}

TEST_F(CalibrationTest, ConversationsAreReadAsWhatWasSaid) {
  const auto set = Load("a.jsonl",
                        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"},"
                        " {\"role\": \"assistant\", \"content\": \"Hello\"}]}\n");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->documents[0].text, "Hi\n\nHello");
  EXPECT_FALSE(Load("a.jsonl", "{\"m\": [{\"role\": \"user\"}]}\n", "m").ok());
}

TEST_F(CalibrationTest, TooLittleTextIsSaid) {
  const auto set = Load("a.txt", "abcdefgh");
  ASSERT_TRUE(set.ok()) << set.status();
  const auto fewer = CutSequences(*set, Encode, {.sequences = 9, .length = 4, .vocabulary = 200});
  ASSERT_TRUE(fewer.ok()) << fewer.status();
  EXPECT_EQ(fewer->ids.size(0), 2);
  EXPECT_THAT(fewer->warning, HasSubstr("2 sequences of 4 instead of 9"));
  const auto none = CutSequences(*set, Encode, {.sequences = 1, .length = 100, .vocabulary = 200});
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("has 9 tokens"));
}

TEST_F(CalibrationTest, DamagedFilesAreRefusedWithTheirLine) {
  EXPECT_THAT(Refusal("a.jsonl", "{\"text\": \"a\"}\nnot json\n"),
              HasSubstr("line 2 is not valid JSON"));
  EXPECT_THAT(Refusal("a.jsonl", "{\"text\": \"a\"}\n[1]\n"),
              HasSubstr("line 2 is not a JSON object"));
  EXPECT_THAT(Refusal("a.jsonl", "{\"body\": \"a\"}\n"),
              HasSubstr("no field 'text'; its fields: 'body'"));
  EXPECT_THAT(Refusal("a.jsonl", "{\"text\": 5}\n"), HasSubstr("line 1"));
  EXPECT_THAT(Refusal("a.jsonl", "{\"text\": [5, -1]}\n"), HasSubstr("-1"));
  EXPECT_THAT(Refusal("a.jsonl", "\n\n"), HasSubstr("no document"));
  EXPECT_THAT(Refusal("a.txt", "good\nbad \xff\n"), HasSubstr("line 2 is not valid UTF-8"));
  EXPECT_THAT(Refusal("a.csv", "x"), HasSubstr(".jsonl"));
  EXPECT_FALSE(LoadDocuments(folder_ + "/missing.txt", "").ok());
}

TEST_F(CalibrationTest, BuiltinTextIsThere) {
  const auto set = BuiltinDocuments();
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->documents.size(), 480);
  EXPECT_EQ(set->digest.size(), 64);
}

// Whether one device sees all batches or each of several some of them; one of these sees none that
// an expert is given tokens of.
TEST_F(CalibrationTest, StatisticsAreThoseOfAPlainProduct) {
  at::Generator generator = at::detail::createCPUGenerator(3);
  const std::vector<LinearShape> linears = {{"q", 8, 600, false, 0},
                                            {"k", 8, 600, false, 0},
                                            {"expert", 8, 20, false, 1},
                                            {"idle", 8, 20, false, 2},
                                            {"o", 8, 70, false, 3}};
  for (const size_t devices : {1, 2, 3}) {
    std::vector<StatisticsCollector> collectors(
        devices, StatisticsCollector(linears, {0, 1, 2, 3},
                                     {.inputs = true, .hessian = true, .absmax = true}));
    std::map<int, std::vector<at::Tensor>> inputs;
    for (int batch = 0; batch < 3; ++batch) {
      for (const auto& [group, columns] : {std::pair{0, 600}, {1, 20}, {3, 70}}) {
        inputs[group].push_back(at::randn({2, 5, columns}, generator));
      }
      StatisticsCollector& collector = collectors[batch % devices];
      collector.StartBatch();
      EXPECT_TRUE(collector.OnInput("q", inputs[0].back()).ok());
      EXPECT_TRUE(collector.OnInput("k", inputs[0].back()).ok());
      if (batch == 0) {
        EXPECT_TRUE(collector.OnInput("expert", inputs[1].back()).ok());
      }
      EXPECT_FALSE(collector.OnInput("o", inputs[3].back()).ok());
      EXPECT_TRUE(collector.enough());
    }
    inputs[1].resize(1);
    const std::vector<at::Device> places(devices, at::kCPU);
    ASSERT_TRUE(
        StatisticsCollector::Combine(absl::MakeSpan(collectors), places, *CopyingCollective())
            .ok());
    for (StatisticsCollector& collector : collectors) {
      const auto statistics = collector.Finish();
      ASSERT_TRUE(statistics.ok()) << statistics.status();
      for (const int group : {0, 1, 3}) {
        const InputStatistics& seen = statistics->at(group);
        const at::Tensor x = at::cat(inputs[group]).reshape({-1, inputs[group][0].size(-1)});
        const at::Tensor wide = x.to(at::kDouble);
        const auto tokens = static_cast<double>(x.size(0));
        const at::Tensor expected = at::matmul(wide.t(), wide) * (2 / tokens);
        EXPECT_EQ(seen.tokens, x.size(0));
        // At most 30 float32 products of size one each: 30 * 2^-24 and some.
        EXPECT_TRUE(at::allclose(seen.hessian.to(at::kDouble), expected, 1e-5, 1e-5));
        EXPECT_TRUE(seen.absmax.equal(x.abs().amax(0)));
      }
      EXPECT_EQ(statistics->at(2).tokens, 0);
      EXPECT_FALSE(statistics->at(2).hessian.defined());
    }
  }
}

}  // namespace
}  // namespace quantd::engine
