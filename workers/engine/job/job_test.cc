// Specs, options, failures, inputs and events: what is accepted, what is refused and in which
// words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/job/context.h"
#include "workers/engine/job/events.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/job/options.h"
#include "workers/engine/job/spec.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(SpecTest, ReadsBothSpellingsAndBothIntegerForms) {
  const auto spec = ParseJobSpec(R"({
    "displayName": "d", "priority": 3, "limits": {"runTime": "3s"}, "labels": {"a": "b"},
    "runtime": {"device": "cpu", "host_memory_bytes": "5000000000", "seed": "18446744073709551615"},
    "quantize": {"model": "m", "method": "gptq", "options": {"bits": 4.0},
                 "calibration": {"sequence_length": "512", "batchSize": 2.0},
                 "overrides": [{"pattern": "down", "skip": true}], "shardBytes": 1000}})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(KindName(*spec), "quantize");
  EXPECT_EQ(spec->runtime.host_memory_bytes, 5000000000);
  EXPECT_EQ(spec->runtime.seed, ~uint64_t{0});
  const auto& quantize = std::get<QuantizeSpec>(spec->kind);
  EXPECT_EQ(quantize.calibration.sequence_length, 512);
  EXPECT_EQ(quantize.calibration.batch_size, 2);
  EXPECT_EQ(quantize.options["bits"], 4.0);
  ASSERT_EQ(quantize.overrides.size(), 1u);
  EXPECT_TRUE(quantize.overrides[0].skip);
  EXPECT_EQ(quantize.shard_bytes, 1000);
}

TEST(SpecTest, WritesWhatItReads) {
  const std::string text = R"({"displayName":"d","evaluate":{"batchSize":2,"model":"m","tasks":[)"
                           R"({"data":"f","limit":3,"name":"arc","options":{"x":1}}]},)"
                           R"("runtime":{"device":"cpu","hostMemoryBytes":"7","threads":2}})";
  const auto spec = ParseJobSpec(text);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(JobSpecToJson(*spec).dump(), text);
  EXPECT_EQ(JobSpecToJson(*ParseJobSpec(R"({"verify":{}})")).dump(), R"({"verify":{}})");
}

TEST(SpecTest, RefusesWithThePathOfTheField) {
  const struct {
    const char* text;
    const char* words;
  } kCases[] = {
      {"[1]", "an object expected"},
      {"{", "not valid JSON"},
      {"{}", "names no kind"},
      {R"({"verify":{},"evaluate":{}})", "both evaluate and verify"},
      {R"({"verify":{"mdl":"x"}})", "verify.mdl: unknown field; the fields here are model"},
      {R"({"verify":{"model":3}})", "verify.model: a string expected, found 3"},
      {R"({"quantize":{"calibration":{"sequences":1.5}}})",
       "quantize.calibration.sequences: a whole number"},
      {R"({"quantize":{"calibration":{"sequences":"3x"}}})", "found \"3x\""},
      {R"({"quantize":{"calibration":{"sequences":3000000000}}})", "2147483647"},
      {R"({"quantize":{"shard_bytes":1,"shardBytes":2}})", "given twice"},
      {R"({"quantize":{"overrides":[{"pattern":"a"},{"skip":1}]}})",
       "quantize.overrides[1].skip: true or false"},
      {R"({"evaluate":{"tasks":{}}})", "evaluate.tasks: an array expected"},
      {R"({"verify":{},"runtime":{"seed":-1}})", "runtime.seed"},
      {R"({"verify":{},"colour":1})", "colour: unknown field"},
  };
  for (const auto& test : kCases) {
    const auto spec = ParseJobSpec(test.text);
    ASSERT_FALSE(spec.ok()) << test.text;
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(test.words)) << test.text;
  }
  EXPECT_FALSE(ParseJobSpec(std::string(200000, '[')).ok());
  EXPECT_FALSE(ParseJobSpec("{\"verify\":{\"model\":\"\xff\"}}").ok());
}

TEST(OptionsTest, FillsDefaultsAndRefusesWithReasons) {
  const std::vector<OptionInfo> options = {
      {"bits", OptionType::kInt, 4, {2, 4}, {}, {}, "Bits."},
      {"damp", OptionType::kFloat, 0.01, {}, 0.0, 1.0, "Damping."},
      {"sym", OptionType::kBool, true, {}, {}, {}, "Symmetric."},
      {"name", OptionType::kString, "x", {}, {}, {}, "Name."}};
  const auto resolved = ResolveOptionValues("method m", options, {{"bits", 2.0}, {"damp", 1}});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->dump(), R"({"bits":2,"damp":1.0,"name":"x","sym":true})");
  EXPECT_TRUE(ResolveOptionValues("method m", options, nullptr).ok());
  const struct {
    nlohmann::json given;
    const char* words;
  } kCases[] = {{{{"bits", 3}}, "method m: option \"bits\" is 3; allowed are 2, 4"},
                {{{"bits", "4"}}, "a whole number is needed"},
                {{{"damp", 1.5}}, "at most 1"},
                {{{"damp", -1}}, "at least 0"},
                {{{"sym", 1}}, "true or false"},
                {{{"name", 1}}, "a string"},
                {{{"bit", 4}}, "unknown option \"bit\"; did you mean \"bits\"?"},
                {3, "must be an object"}};
  for (const auto& test : kCases) {
    const auto result = ResolveOptionValues("method m", options, test.given);
    ASSERT_FALSE(result.ok()) << test.given;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(test.words));
  }
}

TEST(OptionsTest, CommandLineTextBecomesTheObviousType) {
  EXPECT_EQ(*ParseOptionText("4"), 4);
  EXPECT_EQ(*ParseOptionText("0.5"), 0.5);
  EXPECT_EQ(*ParseOptionText("true"), true);
  EXPECT_EQ(*ParseOptionText("static"), "static");
  EXPECT_FALSE(ParseOptionText("[1]").ok());
}

TEST(FailureTest, ClassComesFromThePayloadOrTheCode) {
  EXPECT_EQ(ErrorClassOf(absl::InvalidArgumentError("x")), ErrorClass::kInvalidSpec);
  EXPECT_EQ(ErrorClassOf(absl::DataLossError("x")), ErrorClass::kBadInput);
  EXPECT_EQ(ErrorClassOf(absl::ResourceExhaustedError("x")), ErrorClass::kOutOfMemory);
  EXPECT_EQ(ErrorClassOf(ErrnoStatus(ENOSPC, "writing")), ErrorClass::kDiskFull);
  EXPECT_EQ(ErrorClassOf(absl::UnknownError("x")), ErrorClass::kInternal);
  const absl::Status status = WithRemedy(
      WithErrorClass(absl::InternalError("logits differ"), ErrorClass::kVerificationFailed),
      "again");
  const nlohmann::json json = FailureToJson(Annotate(status, "verifying"));
  EXPECT_EQ(json["errorClass"], "ERROR_CLASS_VERIFICATION_FAILED");
  EXPECT_EQ(json["message"], "verifying: logits differ");
  EXPECT_EQ(json["remedy"], "again");
  EXPECT_EQ(json["code"], 13);
}

class ContextTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/quantd_job_test.XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }
  JobContext Context() { return {{}, {}, folder_, folder_, folder_, sink_, cancel_, nullptr}; }

  std::string folder_;
  RecordingSink sink_;
  CancelToken cancel_;
};

TEST_F(ContextTest, ResolvesInputsFoldersAndHubNames) {
  JobContext context = Context();
  auto inputs = ParseInputs(absl::StrCat(
      R"({"jobs/a":{"path":")", folder_,
      R"(","state":"JOB_STATE_SUCCEEDED","result":{"x":1},"spec":null,"failure":null},)",
      R"("jobs/b":{"path":"","state":"JOB_STATE_FAILED","failure":{"message":"m"}}})"));
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  context.inputs = *inputs;
  EXPECT_EQ(*context.ResolveModel("jobs/a"), folder_);
  EXPECT_EQ(*context.ResolveModel("tenants/t/jobs/a"), folder_);
  EXPECT_EQ(*context.ResolveModel(folder_), folder_);
  EXPECT_THAT(std::string(context.ResolveModel("jobs/b").status().message()),
              HasSubstr("JOB_STATE_FAILED"));
  EXPECT_THAT(std::string(context.ResolveModel("jobs/c").status().message()), HasSubstr("jobs/c"));
  EXPECT_FALSE(context.ResolveModel("").ok());
  EXPECT_FALSE(context.ResolveModel("/no/such/folder").ok());
  EXPECT_THAT(std::string(context.ResolveModel("org/name").status().message()),
              HasSubstr("downloads"));
  context.fetch_model = [](JobContext&, const std::string& name) { return "/cache/" + name; };
  EXPECT_EQ(*context.ResolveModel("org/name@v1"), "/cache/org/name@v1");
  // A mistyped path that may be a Hub name is asked for, and the error says first what happened.
  int asked = 0;
  context.fetch_model = [&](JobContext&, const std::string&) -> absl::StatusOr<std::string> {
    ++asked;
    return absl::UnavailableError("fetching: no answer");
  };
  const absl::Status typo = context.ResolveModel("modles/tiny-6m").status();
  EXPECT_TRUE(absl::IsUnavailable(typo)) << typo;
  EXPECT_THAT(std::string(typo.message()),
              StartsWith("there is no folder modles/tiny-6m here, so the Hub was asked: fetching"));
  // Everything else is refused at once.
  for (const char* path :
       {"./modles/tiny", "./tiny", "../tiny", "/modles", "/modles/tiny", "~/tiny", "modles/",
        "modles/tiny/", "my modles/tiny", "a/b/c", "org/../name", "org/..", "tiny"}) {
    const absl::Status refused = context.ResolveModel(path).status();
    EXPECT_TRUE(absl::IsNotFound(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("there is no such folder")) << path;
  }
  EXPECT_EQ(asked, 1);
  EXPECT_FALSE(ParseInputs("[]").ok());
  EXPECT_FALSE(ParseInputs(R"({"jobs/a":{"pth":""}})").ok());
}

TEST_F(ContextTest, AnArtifactOfOneFileIsThatFile) {
  JobContext context = Context();
  context.inputs["artifacts/x"].path = folder_;
  EXPECT_FALSE(context.ResolveData("artifacts/x").ok());
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/a.jsonl", "{}").ok());
  EXPECT_EQ(*context.ResolveData("artifacts/x"), folder_ + "/a.jsonl");
  EXPECT_EQ(*context.ResolveData(folder_ + "/a.jsonl"), folder_ + "/a.jsonl");
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/b.jsonl", "{}").ok());
  EXPECT_THAT(std::string(context.ResolveData("artifacts/x").status().message()),
              HasSubstr("2 files"));
  EXPECT_FALSE(context.ResolveData("/no/file").ok());
}

TEST(EventsTest, RateFollowsTheLastMoments) {
  FakeClock clock;
  RecordingSink sink(clock);
  for (int i = 0; i <= 100; ++i) {
    sink.Progress({"quantize", i, 200, "block"});
    clock.Advance(absl::Seconds(i < 50 ? 1 : 4));
  }
  const nlohmann::json last = sink.Events("progress").back()["progress"];
  EXPECT_NEAR(last["rate"].get<double>(), 0.25, 0.01);
  EXPECT_EQ(last["remaining"], "400.000s");
  EXPECT_EQ(last["done"], "100");
  // A new phase starts anew.
  sink.Progress({"write", 0, 2, "file"});
  EXPECT_FALSE(sink.Events("progress").back()["progress"].contains("rate"));
}

TEST(EventsTest, NumbersThatAreNotFiniteAreNames) {
  RecordingSink sink;
  sink.Metric("perplexity", std::nan(""));
  sink.Metric("x", INFINITY, "s", {{"a", "b"}});
  EXPECT_EQ(sink.Events("metric")[0]["metric"]["value"], "NaN");
  EXPECT_EQ(sink.Events("metric")[1]["metric"]["value"], "Infinity");
}

TEST(EventsTest, ThrottledSinkSendsFirstAndLastOfAPhase) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  CancelToken cancel;
  {
    FdSink sink(fds[1], cancel);
    for (int i = 0; i <= 1000; ++i) sink.Progress({"load", i, 1000, "block"});
    sink.Emit({{"log", {{"text", "\xff"}}}});
  }
  close(fds[1]);
  std::string text(1 << 20, '\0');
  text.resize(static_cast<size_t>(read(fds[0], text.data(), text.size())));
  close(fds[0]);
  EXPECT_THAT(text, HasSubstr("\"done\":\"0\""));
  EXPECT_THAT(text, HasSubstr("\"done\":\"1000\""));
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 500);
  EXPECT_EQ(text.back(), '\n');
  EXPECT_FALSE(cancel.cancelled());
}

TEST(EventsTest, AReaderThatIsGoneCancelsTheJob) {
  signal(SIGPIPE, SIG_IGN);
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  close(fds[0]);
  CancelToken cancel;
  FdSink sink(fds[1], cancel);
  sink.Metric("x", 1);
  sink.Metric("x", 2);
  EXPECT_EQ(cancel.Check().code(), absl::StatusCode::kCancelled);
  close(fds[1]);
}

TEST(CancelTest, ASignalCancels) {
  static const CancelToken token;
  CancelToken::CancelOnSignals(token);
  EXPECT_TRUE(token.Check().ok());
  raise(SIGTERM);
  EXPECT_EQ(token.Check().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace quantd::engine
