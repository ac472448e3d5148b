// The screens, as text of a fixed width.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/render/board.h"
#include "client/render/comparison.h"
#include "client/render/failure.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

std::string Joined(const std::vector<std::string>& lines) { return absl::StrJoin(lines, "\n"); }

v1::JobEvent Event(const std::string& yaml) {
  v1::JobEvent event;
  const absl::Status status = YamlToMessage(yaml, "event", &event);
  EXPECT_TRUE(status.ok()) << status;
  return event;
}

TEST(Table, AlignsAndDropsWhatDoesNotFit) {
  Table table({{"name"}, {"size", Align::kRight}, {"note", Align::kLeft, 1}});
  table.AddRow({"a", "12", "first"});
  table.AddRow({"l\xc3\xa4nger", "7", "a\nb\x1b[31m"});
  EXPECT_EQ(Joined(table.Render(0, {})),
            "name    size  note\na         12  first\nl\xc3\xa4nger     7  a b [31m");
  std::vector<std::string> dropped;
  EXPECT_EQ(Joined(table.Render(14, {}, &dropped)),
            "name    size\na         12\nl\xc3\xa4nger     7");
  EXPECT_THAT(dropped, ::testing::ElementsAre("note"));
  for (const std::string& line : table.Render(9, {})) EXPECT_LE(DisplayWidth(line), 9u);
}

TEST(Table, FormatsNumbersAndTimes) {
  EXPECT_EQ(ShortNumber(12.3456), "12.35");
  EXPECT_EQ(ShortNumber(0.3125), "0.312");
  EXPECT_EQ(ShortNumber(1234.6), "1235");
  EXPECT_EQ(ShortNumber(0.0001234), "0.000123");
  EXPECT_EQ(ShortNumber(4), "4");
  EXPECT_EQ(ShortDuration(absl::Seconds(42)), "42s");
  EXPECT_EQ(ShortDuration(absl::Seconds(185)), "3m05s");
  EXPECT_EQ(ShortDuration(absl::Minutes(127)), "2h07m");
  EXPECT_EQ(Clip("abcdef", 4), "abc~");
  EXPECT_EQ(OneLine("a\x1b]0;x\x07\xff"), "a ]0;x \xef\xbf\xbd");
}

TEST(JobBoard, DrawsStateAndBar) {
  JobBoard board("jobs/7f3a  llama");
  board.Apply(Event("{attempt: 1, state: {state: running, worker: workers/w1}}"));
  board.Apply(
      Event("{attempt: 1, progress: {phase: quantize, done: 12, total: 32, unit: block, rate: 3.1,"
            " remaining: 6s}}"));
  EXPECT_EQ(Joined(board.Lines(80, {})),
            "jobs/7f3a  llama  running on workers/w1\n"
            "  [=========>                ]  38%  quantize 12/32 block, 3.100/s, 6s left");
  EXPECT_EQ(Joined(board.Lines(30, {})),
            "jobs/7f3a  llama  running on ~\n"
            "  [===>      ]  38%  quantize~");
  board.Apply(Event("{attempt: 1, progress: {phase: download, done: 17, unit: byte}}"));
  EXPECT_EQ(board.Lines(80, {})[1], "  download 17 byte");
  board.Apply(Event("{attempt: 2, state: {state: succeeded}}"));
  EXPECT_EQ(Joined(board.Lines(80, {})), "jobs/7f3a  llama  succeeded, attempt 2");
  EXPECT_EQ(Joined(board.Lines(80, {.color = true})),
            "\x1b[1mjobs/7f3a  llama  succeeded, attempt 2\x1b[0m");
}

v1::Sweep ExampleSweep() {
  v1::Sweep sweep;
  const absl::Status status = YamlToMessage(R"(
name: tenants/default/sweeps/4c1d
report_job: r
cells:
- {name: bf16, model: a/b, baseline: true, stages: [{kind: evaluate, job: e0, state: succeeded}]}
- name: gptq-b4-g128
  model: a/b
  stages:
  - {kind: quantize, job: q1, state: queued}
  - {kind: verify, job: v1, state: pending}
  - {kind: evaluate, job: e1, state: pending}
- name: gptq-b2-g128
  model: a/b
  stages:
  - {kind: quantize, job: q2, state: failed}
  - {kind: verify, job: v2, state: skipped}
  - {kind: evaluate, job: e2, state: skipped}
)",
                                            "sweep", &sweep);
  EXPECT_TRUE(status.ok()) << status;
  return sweep;
}

TEST(SweepBoard, DrawsCellsByStage) {
  SweepBoard board(ExampleSweep());
  board.Apply(Event("{job: e0, metric: {name: perplexity, value: 12.345}}"));
  board.Apply(Event("{job: e0, metric: {name: arc/acc, value: 0.25}}"));
  board.Apply(Event("{job: q1, state: {state: running}}"));
  board.Apply(Event("{job: q1, progress: {phase: quantize, done: 3, total: 6, remaining: 2s}}"));
  EXPECT_EQ(Joined(board.Lines(80, 0, absl::Seconds(42), {})),
            "sweeps/4c1d  4/8 jobs, 42s, 1 failed\n"
            "variant       quantize         verify   evaluate  perplexity  arc/acc\n"
            "bf16          -                -        done           12.35    0.250\n"
            "gptq-b4-g128  quantize 50% 2s  .        .\n"
            "gptq-b2-g128  failed           skipped  skipped");
  EXPECT_EQ(Joined(board.Lines(56, 4, absl::Seconds(42), {})),
            "sweeps/4c1d  4/8 jobs, 42s, 1 failed\n"
            "variant       quantize         verify   evaluate\n"
            "bf16          -                -        done\n"
            "... and 2 more");
  EXPECT_EQ(board.TitleOf("q1"), "gptq-b4-g128 quantize");
}

TEST(SweepBoard, KnowsWhichVariantHasEnded) {
  v1::Sweep sweep = ExampleSweep();
  v1::Sweep::Stage* compare = sweep.mutable_cells(1)->add_stages();
  compare->set_kind("compare");
  compare->set_job("c1");
  const SweepBoard board(sweep);
  EXPECT_TRUE(board.IsComparison("c1"));
  EXPECT_FALSE(board.IsComparison("e1"));
  EXPECT_EQ(board.CellEndedBy(Event("{job: c1, state: {state: running}}")), nullptr);
  EXPECT_EQ(board.CellEndedBy(Event("{job: e1, state: {state: succeeded}}")), nullptr);
  EXPECT_EQ(board.CellEndedBy(Event("{job: e0, state: {state: succeeded}}")), nullptr)
      << "the baseline is no variant";
  ASSERT_NE(board.CellEndedBy(Event("{job: c1, state: {state: succeeded}}")), nullptr);
  EXPECT_EQ(board.CellEndedBy(Event("{job: c1, state: {state: skipped}}"))->name(), "gptq-b4-g128");
  // The comparison counts as a job and has no column.
  EXPECT_EQ(Joined(board.Lines(80, 3, absl::Seconds(1), {})),
            "sweeps/4c1d  4/9 jobs, 1s, 1 failed\n"
            "variant       quantize  verify   evaluate\n"
            "... and 3 more");
}

TEST(Failure, IsToldWhole) {
  FailureAccount account;
  account.title = "gptq-b2 quantize (jobs/q)";
  account.failure.set_error_class(v1::ERROR_CLASS_OUT_OF_MEMORY);
  account.failure.set_message("9 GiB needed");
  account.failure.set_remedy("take a larger worker");
  account.failure.set_attempt(2);
  v1::Worker worker;
  worker.set_name("workers/gpu-1");
  worker.set_host_memory_bytes(int64_t{128} << 30);
  v1::Device* device = worker.mutable_catalog()->add_devices();
  device->set_type("cuda");
  device->set_name("H100");
  device->set_memory_bytes(int64_t{80} << 30);
  account.machine = MachineText(worker);
  account.tried = {"calibration_batch: 8 instead of 32"};
  EXPECT_EQ(Joined(AccountLines(account, {})),
            "gptq-b2 quantize (jobs/q): failed (out of memory, attempt 2): 9 GiB needed\n"
            "  what it means: the machine is too small for this model with this method, also after "
            "every fallback; the method itself may be fine\n"
            "  machine: gpu-1: H100 (80.0 GiB), 128 GiB memory\n"
            "  tried: 2 attempts\n"
            "  tried: calibration_batch: 8 instead of 32\n"
            "  what to do: take a larger worker");
}

TEST(Transcript, OneLinePerChangePhaseAndTenth) {
  Transcript transcript;
  std::vector<std::string> lines;
  const auto add = [&](const std::string& yaml) {
    for (const std::string& line : transcript.Lines(Event(yaml), "", {})) lines.push_back(line);
  };
  add("{state: {state: queued}}");
  add("{attempt: 2, state: {state: running, worker: workers/w1, reason: retried}}");
  for (int done = 0; done <= 40; ++done) {
    add(absl::StrCat("progress: {phase: quantize, total: 40, unit: block, done: ", done, "}"));
  }
  add("{fallback: {kind: cpu, module: layers.3, description: out of device memory}}");
  add("{metric: {name: perplexity, value: 12.345}}");
  add("{metric: {name: loss, value: 1, labels: {module: unseen}}}");
  add("{log: {text: unseen}}");
  add("{failure: {error_class: out_of_memory, attempt: 2, message: 9 GiB needed, remedy: take a "
      "larger worker,"
      " details: {signal: SIGKILL}}}");
  EXPECT_EQ(lines.size(), 18u);
  EXPECT_EQ(lines[1], "running on workers/w1, attempt 2: retried");
  EXPECT_EQ(lines[2], "quantize 0/40 block");
  EXPECT_EQ(lines[3], "quantize 4/40 block");
  EXPECT_EQ(lines[12], "quantize 40/40 block");
  EXPECT_EQ(lines[13], "fallback cpu in layers.3: out of device memory");
  EXPECT_EQ(lines[14], "perplexity = 12.35");
  EXPECT_EQ(lines[15], "failed (out of memory, attempt 2): 9 GiB needed");
  EXPECT_EQ(lines[16], "  what to do: take a larger worker");
  EXPECT_EQ(lines[17], "  signal: SIGKILL");
}

google::protobuf::Struct ExampleComparison() {
  google::protobuf::Struct result;
  const absl::Status status = YamlToMessage(R"(
rows:
- {name: bf16, baseline: true, sizeBytes: 12582912, compressionRatio: 1,
   metrics: {perplexity: 12, arc/acc: 0.25},
   decodeTokensPerSecond: 100, latencyMs: 9.5, verdict: baseline, peakHostBytes: 104857600}
- {name: gptq-b4, sizeBytes: 4194304, compressionRatio: 3,
   metrics: {perplexity: 12.6, arc/acc: 0.24},
   decodeTokensPerSecond: 210, ratio: {decode: {median: 2}},
   latencyMs: {p50: 5.25, p95: 7}, quantizationSeconds: 8.5,
   peakHostBytes: 1048576,
   peakDeviceBytes: 2097152, verdict: good}
- {name: gptq-b2, error: "the Hessian is not\npositive definite", verdict: failed}
metricColumns: [perplexity, arc/acc]
recommendation: gptq-b4
reason: smallest within 5 %
)",
                                            "result", &result);
  EXPECT_TRUE(status.ok()) << status;
  return result;
}

TEST(Comparison, ShowsEveryVariantAgainstTheBaseline) {
  EXPECT_EQ(Joined(ComparisonLines(ExampleComparison(), 0, {})),
            "variant      size  ratio     perplexity        arc/acc       tokens/s   latency  "
            "quantize   peak memory  verdict\n"
            "bf16     12.0 MiB     1x             12          0.250            100  9.500 ms  "
            "       -       100 MiB  baseline\n"
            "gptq-b4  4.00 MiB     3x  12.60 (+5.0%)  0.240 (-4.0%)  210 (+100.0%)  5.250 ms  "
            " 8.500 s  2.00 MiB gpu  good\n"
            "gptq-b2         -      -              -              -              -         -  "
            "       -             -  failed\n"
            "failed:\n"
            "  gptq-b2: the Hessian is not positive definite\n"
            "recommended: gptq-b4: smallest within 5 %");
}

TEST(Comparison, NarrowTerminalsLoseTheLessImportantColumns) {
  const std::vector<std::string> lines = ComparisonLines(ExampleComparison(), 64, {});
  EXPECT_EQ(lines[0], "variant      size  ratio     perplexity        arc/acc  verdict");
  EXPECT_EQ(lines.back(), "not shown for want of width: latency, peak memory, quantize, tokens/s");
}

TEST(Comparison, SummaryOfOneVariant) {
  google::protobuf::Struct result = ExampleComparison();
  auto* rows = (*result.mutable_fields())["rows"].mutable_list_value();
  rows->mutable_values()->RemoveLast();
  auto& row = *rows->mutable_values(1)->mutable_struct_value()->mutable_fields();
  row["verdict"].set_string_value("recommended");
  row["outcome"].set_string_value("investigate");
  row["outcomeReasons"].mutable_list_value()->add_values()->set_string_value("it is slow");
  EXPECT_EQ(Joined(VariantLines(result, {})),
            "gptq-b4: good, investigate: it is slow\n"
            "  8.500 s to quantize, 12.0 MiB -> 4.00 MiB (33.3 % of the original)\n"
            "  perplexity 12.60 (+5.0%), arc/acc 0.240 (-4.0%), tokens/s 210 (+100.0%)");
  EXPECT_TRUE(VariantLines({}, {}).empty());
}

TEST(Comparison, OtherResultsHaveNone) { EXPECT_TRUE(ComparisonLines({}, 80, {}).empty()); }

}  // namespace
}  // namespace quantd
