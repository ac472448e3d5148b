// Unit tests of base: what every other room takes for granted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "base/clock.h"
#include "base/file.h"
#include "base/hub_data.h"
#include "base/nearest.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/testing/evil_paths.h"
#include "base/trace.h"
#include "base/utf8.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

TEST(StatusMacros, ContextIsPutBeforeTheMessageAndTheCodeStays) {
  const auto fail = []() -> absl::StatusOr<int> { return absl::NotFoundError("tensor missing"); };
  const auto outer = [&]() -> absl::Status {
    QD_ASSIGN_OR_RETURN(const int value, fail(), "quantizing ", "q_proj");
    (void)value;
    return absl::OkStatus();
  };
  EXPECT_EQ(outer(), absl::NotFoundError("quantizing q_proj: tensor missing"));
}

// FIPS 180-4 examples.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_TRUE(IsSha256Hex(Sha256Hex("x")));
  EXPECT_FALSE(IsSha256Hex("ABC"));
}

TEST(Nearest, SuggestsWhatWasMeantOrListsWhatThereIs) {
  const std::vector<std::string> names = {"gptq", "awq", "bnb_4bit"};
  EXPECT_EQ(Suggestion("gtpq", names), "; did you mean \"gptq\"?");
  EXPECT_EQ(Suggestion("BNB-4bits", names), "; did you mean \"bnb_4bit\"?");
  EXPECT_EQ(Suggestion("smoothquant", names), "; there are: gptq, awq, bnb_4bit");
  EXPECT_EQ(Suggestion("x", {}), "; there are none");
  EXPECT_EQ(Suggestion(std::string(1000, 'g'), {"g"}), "; there are: g") << "too long to compare";
}

TEST(File, AtomicWriteReplacesAndReadsBack) {
  char folder[] = "/tmp/quantd_base_XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = absl::StrCat(folder, "/x");
  ASSERT_TRUE(WriteFileAtomic(path, "one").ok());
  ASSERT_TRUE(WriteFileAtomic(path, "two").ok());
  EXPECT_EQ(*ReadFile(path), "two");
  EXPECT_EQ(*Sha256File(path), Sha256Hex("two"));
  EXPECT_EQ(ReadFile(path, 2).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
  const absl::Status missing = WriteFileAtomic(absl::StrCat(folder, "/no/x"), "one");
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr("/no/x"));
  ASSERT_TRUE(RemoveTree(folder).ok());
}

TEST(File, RelativePathsThatEscapeAreRefused) {
  for (const char* good : {"a", "a/b.json", "model-00001-of-00003.safetensors", "x..y"}) {
    EXPECT_TRUE(CheckRelativePath(good).ok()) << good;
  }
  for (const std::string& bad : EvilPaths()) {
    EXPECT_EQ(CheckRelativePath(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  for (const std::string& odd : OddPaths()) EXPECT_TRUE(CheckRelativePath(odd).ok()) << odd;
}

TEST(Utf8, WellFormedSequencesOnly) {
  for (const char* good :
       {"", "abc", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsValidUtf8(good)) << good;
  }
  for (const char* bad :
       {"\x80", "\xC0\x80", "\xC3", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF"}) {
    EXPECT_FALSE(IsValidUtf8(bad));
  }
  std::string out;
  for (const uint32_t code_point : {0x24u, 0xE9u, 0x20ACu, 0x1F600u}) AppendUtf8(code_point, &out);
  EXPECT_EQ(out, "$\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
}

TEST(HubData, NamesOfModels) {
  EXPECT_TRUE(IsHubName("org/name"));
  EXPECT_TRUE(IsHubName("org/na.me-1_x@refs/pr/2"));
  for (const char* wrong : {"",      "name",     "/a/b",   "/a",   "./a",    "../a",  "~/a",
                            "~me/a", "a/",       "a/b/",   "a//b", "a/b/c",  "a b/c", "a/b c",
                            "a/b@",  "a/b@../c", "a/b@/c", "a/..", "a--b/c", "a/-b",  "a/b\nc"}) {
    EXPECT_FALSE(IsHubName(wrong)) << wrong;
  }
  EXPECT_FALSE(IsHubName("a/" + std::string(97, 'b')));
}

TEST(HubData, NamesAndUris) {
  const auto wikitext = ParseHubData("wikitext");
  ASSERT_TRUE(wikitext.ok()) << wikitext.status();
  EXPECT_EQ(wikitext->repository, "Salesforce/wikitext");
  EXPECT_TRUE(wikitext->Matches("wikitext-2-raw-v1/train-00000-of-00001.parquet"));
  EXPECT_FALSE(wikitext->Matches("wikitext-2-raw-v1/test-00000-of-00001.parquet"));
  const auto one = ParseHubData("hf://datasets/org/name@v2/data/a.jsonl");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->repository, "org/name");
  EXPECT_EQ(one->revision, "v2");
  EXPECT_TRUE(one->Matches("data/a.jsonl"));
  EXPECT_FALSE(one->Matches("data/a.jsonl.bak"));
  for (const char* bad :
       {"hf://org/name", "hf://datasets/org/name", "hf://datasets/org/name@/a", "wiki",
        "hf://datasets/org/name/../a", "hf://datasets/org/name/*a*", "hf://datasets/org/name/a*",
        "hf://datasets//name/a", "hf://datasets/org/name/a//b"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseHubData(bad).status())) << bad;
  }
  EXPECT_TRUE(IsHubData("c4"));
  EXPECT_FALSE(IsHubData("c4.jsonl"));
}

TEST(Trace, IdsFollowFromNames) {
  const std::string job = "tenants/default/jobs/7f3a";
  EXPECT_EQ(TraceId(job).size(), 32u);
  EXPECT_EQ(TraceId(job), TraceId(job));
  EXPECT_NE(TraceId(job), TraceId(job + "b"));
  EXPECT_NE(SpanId(job, AttemptPart(1)), SpanId(job, AttemptPart(2)));
  EXPECT_EQ(TraceParent(job, 1), "00-" + TraceId(job) + "-" + SpanId(job, AttemptPart(1)) + "-01");
}

TEST(FakeClock, WallJumpLeavesMonotonicTimeAlone) {
  FakeClock clock;
  const absl::Duration before = clock.Monotonic();
  clock.JumpWall(absl::Hours(24));
  EXPECT_EQ(clock.Monotonic(), before);
  clock.Advance(absl::Seconds(1));
  EXPECT_EQ(clock.Monotonic() - before, absl::Seconds(1));
}

}  // namespace
}  // namespace quantd
