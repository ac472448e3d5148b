// quantctl against a scripted scheduler: what it submits, how it watches, what it says and how it
// exits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/testing/evil_paths.h"
#include "client/inputs.h"
#include "client/testing.h"
#include "client/transfer.h"
#include "proto/yaml.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class Folder {
 public:
  Folder() {
    std::string path = "/tmp/quantctl-test-XXXXXX";
    path_ = mkdtemp(path.data());
  }
  ~Folder() { (void)RemoveTree(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = path_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << text;
    return path;
  }

 private:
  std::string path_;
};

template <typename Message>
Message FromYaml(const std::string& yaml) {
  Message message;
  const absl::Status status = YamlToMessage(yaml, "test", &message);
  EXPECT_TRUE(status.ok()) << status;
  return message;
}

// A job that has ended, with four events.
void Script(FakeScheduler* fake, const std::string& state) {
  fake->job =
      FromYaml<v1::Job>("{name: tenants/default/jobs/j1, last_sequence: 4, state: " + state + "}");
  fake->events = {
      FromYaml<v1::JobEvent>("{sequence: 1, state: {state: queued}}"),
      FromYaml<v1::JobEvent>(
          "{sequence: 2, attempt: 1, state: {state: running, worker: workers/w1}}"),
      FromYaml<v1::JobEvent>("{sequence: 3, attempt: 1, metric: {name: perplexity, value: 12.5}}"),
      FromYaml<v1::JobEvent>("{sequence: 4, attempt: 1, state: {state: " + state + "}}")};
}

std::vector<std::string> With(const FakeScheduler& fake, std::vector<std::string> words) {
  words.insert(words.begin(), {"--scheduler", fake.address()});
  return words;
}

TEST(Quantctl, QuantizeSubmitsWatchesAndSucceeds) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  const Folder folder;
  folder.Write("model/config.json", "{}");
  const ClientRun run = RunQuantctl(With(fake, {"quantize",     folder / "model",
                                                "--method",     "gptq",
                                                "--bits",       "4",
                                                "--group-size", "-1",
                                                "--option",     "damping=0.05",
                                                "--override",   "mlp:bits=8,group_size=64",
                                                "--override",   "(?:a|b):skip",
                                                "--label",      "team=x",
                                                "--priority",   "7",
                                                "--sequences",  "32"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out,
            "submitted jobs/j1\nqueued\nrunning on workers/w1\nperplexity = 12.50\nsucceeded\n");
  ASSERT_EQ(fake.submitted.size(), 1u);
  EXPECT_EQ(fake.submitted[0].parent(), "tenants/default");
  EXPECT_EQ(fake.submitted[0].request_id().size(), 36u);
  EXPECT_EQ(MessageToYaml(fake.submitted[0].spec()),
            "quantize:\n  model: " + folder.path() + R"yaml(/model
  method: gptq
  options:
    bits: 4
    damping: 0.05
    group_size: -1
  calibration:
    sequences: 32
  overrides:
    - pattern: mlp
      options:
        bits: 8
        group_size: 64
    - pattern: "(?:a|b)"
      skip: true
priority: 7
labels:
  team: x
)yaml");
}

TEST(Quantctl, FileWithFlagsOverIt) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  const Folder folder;
  folder.Write("models/m/config.json", "{}");
  folder.Write("specs/data.jsonl", "{}");
  const std::string file =
      folder.Write("specs/job.yaml",
                   "quantize:\n  model: ../models/m\n  method: gptq\n  options: {bits: 4}\n"
                   "  calibration: {source: data.jsonl}\n");
  const ClientRun run =
      RunQuantctl(With(fake, {"quantize", "-f", file, "--bits", "3", "--detach"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("quantctl jobs watch j1"));
  const v1::QuantizeSpec& spec = fake.submitted.at(0).spec().quantize();
  EXPECT_EQ(spec.model(), folder / "models/m");
  EXPECT_EQ(spec.calibration().source(), folder / "specs/data.jsonl");
  EXPECT_EQ(spec.options().fields().at("bits").number_value(), 3);
  EXPECT_TRUE(fake.watched_after.empty());
}

TEST(Quantctl, ConfigurationsOfTheGuideAreTakenAsTheyAre) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  const Folder folder;
  folder.Write("models/m/config.json", "{}");
  const auto run = [&](const std::string& text, std::vector<std::string> more = {}) {
    const std::string file = folder.Write("configs/c.yaml", text);
    std::vector<std::string> arguments = {"quantize", "--config", file, "--detach"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunQuantctl(With(fake, arguments));
  };
  const std::string model = "model:\n  model_name: ../models/m\n";
  const ClientRun awq = run(model +
                                "  tokenizer_name: ../models/m\nmethod: awq_q4_0\n"
                                "output_path: out\noutput_format: gguf\nawq_group_size: 128\n"
                                "calibration_samples: 64\nbatch_size: 2\ncleanup_temp: true\n"
                                "verbose: false\n",
                            {"--fallback"});
  EXPECT_EQ(awq.exit_code, 0) << awq.err;
  EXPECT_THAT(awq.err, HasSubstr("awq_group_size: scales and clips"));
  EXPECT_EQ(MessageToYaml(fake.submitted.at(0).spec()), "quantize:\n  model: " + folder.path() +
                                                            R"yaml(/models/m
  method: awq_q4_0
  format: gguf
  calibration:
    sequences: 64
    batch_size: 2
  fallback: true
)yaml");
  EXPECT_EQ(run(model + "method: q8_0\n").exit_code, 0);
  const v1::QuantizeSpec& blocks = fake.submitted.at(1).spec().quantize();
  EXPECT_EQ(blocks.method(), "gguf");
  EXPECT_EQ(blocks.options().fields().at("type").string_value(), "q8_0");
  EXPECT_EQ(run(model + "method: bnb_4bit\noutput_format: safetensors\n").exit_code, 0);
  EXPECT_EQ(fake.submitted.at(2).spec().quantize().format(), "bitsandbytes");

  const auto refusal = [&](const std::string& text) {
    const ClientRun refused = run(text);
    EXPECT_EQ(refused.exit_code, 2) << text;
    return refused.err;
  };
  EXPECT_THAT(refusal(model + "method: q4_0\nmetod: x\n"), HasSubstr("c.yaml:4:"));
  EXPECT_THAT(refusal(model + "method: best\n"), HasSubstr("awq_q4_0, awq_q4_1"));
  EXPECT_THAT(refusal(model + "method: q4_0\noutput_format: pytorch\n"), HasSubstr("goes to gguf"));
  EXPECT_THAT(refusal("method: q4_0\n"), HasSubstr("model.model_name"));
  EXPECT_THAT(refusal(model + "  tokenizer_name: o/t\nmethod: f16\n"), HasSubstr("own tokenizer"));
  EXPECT_EQ(fake.submitted.size(), 3u);
}

TEST(Quantctl, FailedJobExitsWithOneAndSaysWhatToDo) {
  FakeScheduler fake;
  Script(&fake, "failed");
  *fake.job.mutable_failure() = FromYaml<v1::Failure>(
      "{error_class: bad_input, message: tensor missing, remedy: download it again, attempt: 1}");
  const ClientRun run = RunQuantctl(With(fake, {"jobs", "watch", "j1"}));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(
      run.out,
      HasSubstr("failed (bad input, attempt 1): tensor missing\n  what to do: download it again"));
}

TEST(Quantctl, ResumesAfterADroppedStreamWithoutGapOrRepeat) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  fake.drop_after_events = 1;
  const ClientRun run = RunQuantctl(With(fake, {"jobs", "watch", "jobs/j1"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out, "queued\nrunning on workers/w1\nperplexity = 12.50\nsucceeded\n");
  EXPECT_THAT(fake.watched_after, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(run.err, HasSubstr("connection lost"));
}

TEST(Quantctl, JsonIsOneObjectALine) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  const ClientRun run = RunQuantctl(With(fake, {"--json", "jobs", "watch", "j1"}));
  EXPECT_EQ(run.exit_code, 0);
  std::istringstream lines(run.out);
  std::string line, first;
  int count = 0;
  while (std::getline(lines, line)) {
    if (count++ == 0) first = line;
    EXPECT_EQ(line.front(), '{');
    EXPECT_EQ(line.back(), '}');
  }
  EXPECT_EQ(count, 5);
  EXPECT_EQ(first, R"({"event":{"sequence":"1","state":{"state":"JOB_STATE_QUEUED"}}})");
}

TEST(Quantctl, TimeoutExitsWith124) {
  FakeScheduler fake;
  Script(&fake, "running");
  fake.endless = true;
  const ClientRun run = RunQuantctl(With(fake, {"--timeout", "300ms", "jobs", "watch", "j1"}));
  EXPECT_EQ(run.exit_code, 124);
  EXPECT_THAT(run.err, HasSubstr("the job goes on"));
}

TEST(Quantctl, ExitCodesByCause) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  EXPECT_EQ(RunQuantctl({}).exit_code, 2);
  EXPECT_EQ(RunQuantctl({"--help"}).exit_code, 0);
  EXPECT_EQ(RunQuantctl({"version"}).exit_code, 0);
  const ClientRun typo = RunQuantctl({"quantise", "x"});
  EXPECT_EQ(typo.exit_code, 2);
  EXPECT_THAT(typo.err, HasSubstr("did you mean \"quantize\"?"));
  EXPECT_THAT(RunQuantctl({"jobs", "lst"}).err, HasSubstr("did you mean \"list\"?"));
  EXPECT_EQ(RunQuantctl({"--timeout", "soon", "workers"}).exit_code, 2);
  EXPECT_EQ(RunQuantctl({"--tenant", "A/b", "workers"}).exit_code, 2);
  EXPECT_EQ(RunQuantctl(With(fake, {"jobs", "get", "absent"})).exit_code, 3);
  EXPECT_EQ(RunQuantctl(With(fake, {"jobs", "get", "no such job"})).exit_code, 2);
  const ClientRun path = RunQuantctl(With(fake, {"verify", "./modle"}));
  EXPECT_EQ(path.exit_code, 3);
  EXPECT_THAT(path.err, HasSubstr("no such file or folder"));

  const std::vector<std::string> submit = With(fake, {"verify", "org/name", "--detach"});
  fake.submit_error = absl::PermissionDeniedError("not yours");
  EXPECT_EQ(RunQuantctl(submit).exit_code, 4);
  fake.submit_error =
      FieldErrors({{"spec.verify.model", "unknown"}, {"spec.priority", "too high"}});
  const ClientRun refused = RunQuantctl(submit);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err,
              HasSubstr("\n  spec.verify.model: unknown\n  spec.priority: too high\n"));
  fake.submit_error = absl::ResourceExhaustedError("the queue is full");
  EXPECT_EQ(RunQuantctl(submit).exit_code, 5);
}

TEST(Quantctl, UnreachableSchedulerSaysHowToStartOne) {
  const ClientRun run = RunQuantctl({"--scheduler", "127.0.0.1:1", "workers"});
  EXPECT_EQ(run.exit_code, 5);
  EXPECT_THAT(run.err, HasSubstr("the scheduler at 127.0.0.1:1 cannot be reached"));
  EXPECT_THAT(run.err, HasSubstr("quantd --standalone"));
}

TEST(Quantctl, FlagsWinOverTheEnvironmentAndThatOverTheFile) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  const Folder home;
  home.Write(".config/quantd/client.yaml",
             "scheduler: \"" + fake.address() + "\"\ntenant: filed\n");
  const std::vector<std::string> words = {"verify", "org/name", "--detach"};
  const std::map<std::string, std::string> variables = {{"HOME", home.path()}};
  EXPECT_EQ(RunQuantctl(words, variables).exit_code, 0);
  EXPECT_EQ(fake.submitted.back().parent(), "tenants/filed");
  auto more = variables;
  more["QUANTD_TENANT"] = "env";
  EXPECT_EQ(RunQuantctl(words, more).exit_code, 0);
  EXPECT_EQ(fake.submitted.back().parent(), "tenants/env");
  EXPECT_EQ(RunQuantctl({"--tenant", "flag", "verify", "org/name", "--detach"}, more).exit_code, 0);
  EXPECT_EQ(fake.submitted.back().parent(), "tenants/flag");
  home.Write(".config/quantd/client.yaml", "schedular: x\n");
  const ClientRun wrong = RunQuantctl(words, variables);
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.err,
              HasSubstr("client.yaml:1:1: schedular: unknown field; did you mean \"scheduler\"?"));
}

TEST(Quantctl, DryRunPrintsTheResolvedSpec) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  const ClientRun run =
      RunQuantctl(With(fake, {"quantize", "org/name@main", "--method", "rtn", "--dry-run"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(fake.submitted.at(0).validate_only());
  EXPECT_THAT(run.out, HasSubstr("quantize:\n  model: org/name@main\n  method: rtn\n"));
  EXPECT_THAT(run.out,
              HasSubstr("# estimate: none, the model \"org/name@main\" is not on this machine"));
}

TEST(Quantctl, DryRunAsksTheEngineForAnEstimate) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  const Folder folder;
  folder.Write("model/config.json", "{}");
  const std::string engine = folder.Write(
      "quant-engine",
      "#!/bin/sh\n[ \"$1 $2\" = 'estimate --spec' ] && grep -q rtn \"$3\" || exit 1\n"
      "echo '{\"hostMemoryBytes\": 1048576, \"deviceMemoryBytes\": 0, \"diskBytes\": 2048, "
      "\"seconds\": 65}'\n");
  std::filesystem::permissions(engine, std::filesystem::perms::owner_all);
  const std::string path = getenv("PATH");
  setenv("PATH", (folder.path() + ":" + path).c_str(), 1);
  const ClientRun run =
      RunQuantctl(With(fake, {"quantize", folder / "model", "--method", "rtn", "--dry-run"}));
  setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  if (FileExists(std::string(QUANTD_BINARY_DIR) + "/bin/quant-engine")) {
    // The real one stands beside this test and wins; it refuses the empty model.
    EXPECT_THAT(run.out, HasSubstr("# estimate: none, quant-engine estimate ended with"));
  } else {
    EXPECT_THAT(run.out, HasSubstr("# estimate: host memory 1.00 MiB, device memory 0 B, disk "
                                   "2.00 KiB, time about 1m05s"));
  }
}

TEST(Quantctl, SweepFromFlagsAndItsReport) {
  FakeScheduler fake;
  fake.sweep = FromYaml<v1::Sweep>(
      R"({name: tenants/default/sweeps/s1, state: succeeded, report_job: tenants/default/jobs/r,
    cells: [{name: rtn-b4, model: org/name,
             stages: [{kind: quantize, job: tenants/default/jobs/q, state: succeeded}]}]})");
  fake.events = {
      FromYaml<v1::JobEvent>("{sequence: 1, job: tenants/default/jobs/q, state: {state: running}}"),
      FromYaml<v1::JobEvent>(
          "{sequence: 2, job: tenants/default/jobs/q, state: {state: succeeded}}")};
  fake.drop_after_events = 1;
  fake.jobs["tenants/default/jobs/r"] = FromYaml<v1::Job>(
      "{state: succeeded, result: {rows: [{name: rtn-b4, sizeBytes: 1024}], recommendation: "
      "rtn-b4}}");
  const ClientRun run =
      RunQuantctl(With(fake, {"sweep", "org/name", "--method", "rtn", "--method", "gptq", "--bits",
                              "8,4", "--group-size", "128", "--task", "perplexity"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("[rtn-b4 quantize] running\n[rtn-b4 quantize] succeeded\n"));
  EXPECT_THAT(run.out, HasSubstr("recommended: rtn-b4"));
  EXPECT_THAT(run.out, HasSubstr("rtn-b4: quantctl artifacts get q -o DIR"));
  EXPECT_EQ(MessageToYaml(fake.submitted_sweeps.at(0).spec()), R"(models: [org/name]
variants:
  - method: rtn
    options:
      bits: [8, 4]
      group_size: 128
  - method: gptq
    options:
      bits: [8, 4]
      group_size: 128
tasks:
  - name: perplexity
benchmark: {}
)");
}

TEST(Quantctl, SweepFromNamesAndFamilies) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  fake.catalog = FromYaml<v1::Catalog>(R"(methods:
- {name: awq, formats: [awq], options: [{name: bits, allowed: [3, 4, 8]}]}
- {name: awq_q4_0, formats: [gguf]}
- {name: bnb_4bit, formats: [bitsandbytes]}
- {name: bnb_8bit, formats: [bitsandbytes], options: [{name: threshold}]}
- {name: hqq, formats: [hqq], options: [{name: bits, allowed: [2, 3, 4, 8]}]}
)");
  const auto variants = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {"sweep", "org/name"});
    words.push_back("--detach");
    const ClientRun run = RunQuantctl(With(fake, words));
    EXPECT_EQ(run.exit_code, 0) << run.err;
    if (run.exit_code != 0) return std::string();
    v1::SweepSpec spec = fake.submitted_sweeps.back().spec();
    EXPECT_EQ(MessageToYaml(spec.tasks(0)), "name: sanity\n");
    spec.clear_tasks();
    spec.clear_benchmark();
    spec.clear_models();
    return MessageToYaml(spec) + run.err;
  };
  EXPECT_EQ(variants({"--quick"}), R"(variants:
  - name: bnb_8bit
    method: bnb_8bit
    options: {}
  - name: bnb_4bit_nf4
    method: bnb_4bit
    options:
      double_quant: false
      quant_type: nf4
)");
  EXPECT_EQ(variants({"--method", "bnb", "--option", "threshold=4"}), R"(variants:
  - method: bnb_4bit
    options: {}
  - method: bnb_8bit
    options:
      threshold: 4
)");
  // An exact name is no family; a family's methods take what they can of the bits.
  EXPECT_EQ(variants({"--method", "awq", "--bits", "2"}), R"(variants:
  - method: awq
    options:
      bits: 2
)");
  const std::string all = variants({"--method", "all", "--bits", "2,3"});
  EXPECT_THAT(all, HasSubstr("  - method: awq\n    options:\n      bits: 3\n"));
  EXPECT_THAT(all, HasSubstr("  - method: hqq\n    options:\n      bits: [2, 3]\n"));
  EXPECT_THAT(variants({"--method", "all", "--bits", "2"}), HasSubstr("left out"));
  EXPECT_THAT(variants({"--experiment", "gptq_3bit,hqq_2bit"}), HasSubstr("name: hqq_2bit"));

  const ClientRun typo =
      RunQuantctl(With(fake, {"sweep", "org/name", "--experiment", "bnb_4bit_nf"}));
  EXPECT_EQ(typo.exit_code, 3);
  EXPECT_THAT(typo.err, HasSubstr("did you mean \"bnb_4bit_nf4\"?"));
  EXPECT_EQ(RunQuantctl(With(fake, {"sweep", "org/name"})).exit_code, 2);
  EXPECT_EQ(RunQuantctl(With(fake, {"sweep", "org/name", "--quick", "--bits", "4"})).exit_code, 2);
  EXPECT_THAT(RunQuantctl({"methods", "--experiments"}).out, HasSubstr("gguf_q4_k_m"));
}

// A sweep of two variants, one of which failed, and its report.
void ScriptSweep(FakeScheduler* fake) {
  fake->sweep = FromYaml<v1::Sweep>(R"(name: tenants/default/sweeps/s1
state: failed
report_job: tenants/default/jobs/r
spec:
  models: [org/name]
  variants: [{method: rtn, options: {}}]
  tasks: [{name: sanity}]
  benchmark: {}
cells:
- {name: rtn, model: org/name, stages: [
    {kind: quantize, job: tenants/default/jobs/q1, state: succeeded},
    {kind: evaluate, job: tenants/default/jobs/e1, state: succeeded},
    {kind: compare, job: tenants/default/jobs/c1, state: succeeded}]}
- {name: gptq, model: org/name, stages: [
    {kind: quantize, job: tenants/default/jobs/q2, state: failed},
    {kind: compare, job: tenants/default/jobs/c2, state: succeeded}]}
)");
  fake->events = {
      FromYaml<v1::JobEvent>("{sequence: 1, job: tenants/default/jobs/q2, state: {state: running, "
                             "worker: workers/w1}}"),
      FromYaml<v1::JobEvent>("{sequence: 2, job: tenants/default/jobs/q2, fallback: {kind: cpu, "
                             "description: on the CPU instead}}"),
      FromYaml<v1::JobEvent>("{sequence: 3, job: tenants/default/jobs/c1, state: {state: running, "
                             "worker: workers/w1}}"),
      FromYaml<v1::JobEvent>(
          "{sequence: 4, job: tenants/default/jobs/c1, state: {state: succeeded}}"),
      FromYaml<v1::JobEvent>(
          "{sequence: 5, job: tenants/default/jobs/c2, state: {state: succeeded}}")};
  fake->workers = {FromYaml<v1::Worker>("{name: workers/w1, host_memory_bytes: 8GiB}")};
  const auto file = [&](const std::string& path, const std::string& text) {
    fake->blobs[Sha256Hex(text)] = text;
    return absl::StrCat("{path: ", path, ", blob: {sha256: ", Sha256Hex(text),
                        ", size_bytes: ", text.size(), "}}");
  };
  const auto job = [&](const std::string& id, const std::string& yaml) {
    fake->jobs["tenants/default/jobs/" + id] =
        FromYaml<v1::Job>(absl::StrCat("{name: tenants/default/jobs/", id, ", ", yaml, "}"));
  };
  job("q1", absl::StrCat("state: succeeded, result: {sizeAfterBytes: 5}, output: {files: [",
                         file("config.json", "{}"), "]}"));
  job("e1", absl::StrCat("state: succeeded, result: {metrics: {acc: {value: 0.5}}}, output: {files:"
                         " [",
                         file("samples_arc.jsonl", "{\"id\": 1}\n"), "]}"));
  job("c1",
      "state: succeeded, result: {rows: [{name: baseline, baseline: true, sizeBytes: 20}, {name: "
      "rtn, sizeBytes: 5, metrics: {acc: 0.5}, verdict: good, outcome: successful}]}");
  job("q2",
      "state: failed, failure: {error_class: out_of_memory, message: too large, attempt: 2, "
      "remedy: take a larger worker}");
  job("c2", "state: succeeded, result: {rows: [{name: gptq, verdict: failed}]}");
  job("r", absl::StrCat("state: succeeded, spec: {report: {title: t}}, output: {files: [",
                        file("report.html", "<p>"), ", ", file("report.json", "{}\n"), ", ",
                        file("report.md", "# t\n"), ", ", file("summary.csv", "a,b\r\n"), "]}"));
}

TEST(Quantctl, SweepTellsEveryVariantAndBringsTheTreeHome) {
  FakeScheduler fake;
  ScriptSweep(&fake);
  const Folder folder;
  const ClientRun run =
      RunQuantctl(With(fake, {"sweeps", "watch", "s1", "--output", folder / "out"}));
  EXPECT_EQ(run.exit_code, 1) << run.err;
  EXPECT_THAT(run.out, HasSubstr("rtn: good, successful\n  20 B -> 5 B (25.0 % of the original)\n"
                                 "  acc 0.500\n"));
  EXPECT_THAT(run.out, HasSubstr("gptq quantize (jobs/q2): failed (out of memory, attempt 2): too "
                                 "large\n  what it means: the machine is too small"));
  EXPECT_THAT(run.out, HasSubstr("  machine: w1: 8.00 GiB memory\n  tried: 2 attempts\n"
                                 "  tried: cpu: on the CPU instead\n"));
  EXPECT_THAT(run.out, Not(HasSubstr("[rtn compare]")));
  for (const char* name :
       {"models/rtn/config.json", "samples/rtn/samples_arc.jsonl", "metrics/rtn.json",
        "metrics/gptq.json", "comparisons/rtn.json", "comparisons/gptq.json", "report.md",
        "report.html", "report.json", "summary.csv"}) {
    EXPECT_TRUE(FileExists(folder / "out/" + name)) << name;
  }
  const std::string failed = ReadFile(folder / "out/metrics/gptq.json").value_or("");
  EXPECT_THAT(failed, HasSubstr("\"class\": \"out of memory\""));
  EXPECT_THAT(ReadFile(folder / "out/metrics/rtn.json").value_or(""), HasSubstr("\"acc\""));
}

TEST(Quantctl, ReportInEveryForm) {
  FakeScheduler fake;
  ScriptSweep(&fake);
  EXPECT_EQ(RunQuantctl(With(fake, {"report", "s1"})).out, "# t\n");
  EXPECT_EQ(RunQuantctl(With(fake, {"report", "jobs/r", "--format", "html"})).out, "<p>");
  EXPECT_EQ(RunQuantctl(With(fake, {"report", "sweeps/s1", "--format", "csv"})).out, "a,b\r\n");
  EXPECT_EQ(RunQuantctl(With(fake, {"--json", "report", "s1"})).out, "{}\n");
  EXPECT_EQ(RunQuantctl(With(fake, {"report", "s1", "--format", "pdf"})).exit_code, 2);
  EXPECT_EQ(RunQuantctl(With(fake, {"report", "jobs/q1"})).exit_code, 2);
  const Folder folder;
  EXPECT_EQ(RunQuantctl(With(fake, {"report", "s1", "-o", folder / "r"})).exit_code, 0);
  EXPECT_EQ(ReadFile(folder / "r/report.html").value_or(""), "<p>");
  fake.jobs["tenants/default/jobs/r"].set_state(v1::JOB_STATE_PENDING);
  const ClientRun early = RunQuantctl(With(fake, {"report", "s1"}));
  EXPECT_NE(early.exit_code, 0);
  EXPECT_THAT(early.err, HasSubstr("is pending"));
}

TEST(Quantctl, RetryFailedFindsTheSweep) {
  FakeScheduler fake;
  ScriptSweep(&fake);
  const std::vector<std::string> words = {"sweep", "org/name",       "--method",
                                          "rtn",   "--retry-failed", "--detach"};
  const ClientRun run = RunQuantctl(With(fake, words));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(fake.retried_sweeps, ElementsAre("tenants/default/sweeps/s1"));
  ASSERT_EQ(fake.submitted_sweeps.size(), 1u);
  EXPECT_TRUE(fake.submitted_sweeps[0].validate_only());
  EXPECT_EQ(RunQuantctl(With(fake, {"sweep", "sweeps/s1", "--retry-failed", "-d"})).exit_code, 0);
  EXPECT_EQ(fake.retried_sweeps.size(), 2u);
  const ClientRun other = RunQuantctl(
      With(fake, {"sweep", "org/other", "--method", "rtn", "--retry-failed", "--detach"}));
  EXPECT_EQ(other.exit_code, 3);
  EXPECT_EQ(fake.retried_sweeps.size(), 2u);
}

TEST(Quantctl, UploadsDataFilesWhenAsked) {
  FakeScheduler fake;
  Script(&fake, "succeeded");
  const Folder folder;
  const std::string text(3500, 'x');
  const std::string data = folder.Write("text.txt", text);
  const ClientRun run = RunQuantctl(
      With(fake, {"evaluate", "org/name", "--task", "perplexity=" + data, "--upload", "--detach"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(fake.blobs.at(Sha256Hex(text)), text);
  ASSERT_EQ(fake.created.size(), 1u);
  const v1::Manifest& manifest = fake.created[0].manifest();
  EXPECT_EQ(manifest.sha256(), Sha256Hex(Sha256Hex(text) + " 3500 text.txt\n"));
  EXPECT_EQ(fake.submitted.at(0).spec().evaluate().tasks(0).data(),
            "artifacts/" + manifest.sha256());
}

TEST(Quantctl, MethodsComeFromTheWorkers) {
  FakeScheduler fake;
  fake.catalog =
      FromYaml<v1::Catalog>(R"({methods: [{name: gptq, summary: second order, formats: [gptq],
    options: [{name: bits, type: int, default_value: 4, allowed: [2, 3, 4, 8], help: width},
              {name: damping, type: float, default_value: 0.01, minimum: 0, maximum: 1}]}]})");
  const ClientRun run = RunQuantctl(With(fake, {"methods", "gptq"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("bits     int    4        2, 3, 4, 8  width"));
  EXPECT_THAT(run.out, HasSubstr("damping  float  0.01     0 to 1"));
  const ClientRun typo = RunQuantctl(With(fake, {"methods", "gtpq"}));
  EXPECT_EQ(typo.exit_code, 3);
  EXPECT_THAT(typo.err, HasSubstr("did you mean \"gptq\"?"));
}

TEST(Quantctl, CompletionKnowsEveryCommand) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const ClientRun run = RunQuantctl({"completion", shell});
    EXPECT_EQ(run.exit_code, 0);
    for (const Command& command : Commands()) {
      const std::string word(command.words.substr(command.words.rfind(' ') + 1));
      EXPECT_THAT(run.out, HasSubstr(word)) << shell;
    }
    EXPECT_THAT(run.out, Not(HasSubstr("@LOOP@")));
    EXPECT_THAT(run.out, Not(HasSubstr("@CASES@")));
  }
  EXPECT_EQ(RunQuantctl({"completion", "tcsh"}).exit_code, 2);
}

TEST(Quantctl, EveryCommandHasHelpWithAnExample) {
  for (const Command& command : Commands()) {
    std::vector<std::string> words = absl::StrSplit(command.words, ' ');
    words.push_back("--help");
    const ClientRun run = RunQuantctl(words);
    EXPECT_EQ(run.exit_code, 0) << command.words;
    EXPECT_THAT(run.out, HasSubstr("Example: ")) << command.words;
  }
}

TEST(Inputs, NamesOfModels) {
  EXPECT_EQ(*ResolveModel("org/name@v1", {}), "org/name@v1");
  const Folder folder;
  folder.Write("m/config.json", "{}");
  EXPECT_EQ(*ResolveModel("m", {.base_folder = folder.path()}), folder / "m");
  EXPECT_EQ(*ResolveModel("./m/", {.base_folder = folder.path()}), folder / "m");
  EXPECT_EQ(*ResolveModel("jobs/x", {}), "jobs/x");
  EXPECT_EQ(*ResolveModel("/nowhere", {.remote_paths = true}), "/nowhere");
  EXPECT_TRUE(absl::IsNotFound(ResolveModel("/nowhere", {}).status()));
  EXPECT_TRUE(absl::IsNotFound(ResolveModel("llama", {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ResolveModel("", {}).status()));
}

v1::Manifest TwoFiles(FakeScheduler* fake) {
  v1::Manifest manifest;
  for (const auto& [path, text] :
       std::map<std::string, std::string>{{"a/big.bin", std::string(9'500, 'b')}, {"empty", ""}}) {
    v1::ManifestFile* file = manifest.add_files();
    file->set_path(path);
    file->mutable_blob()->set_sha256(Sha256Hex(text));
    file->mutable_blob()->set_size_bytes(static_cast<int64_t>(text.size()));
    fake->blobs[Sha256Hex(text)] = text;
  }
  return manifest;
}

TEST(Download, ResumesWhereTheConnectionWasCut) {
  FakeScheduler fake;
  fake.cut_download_after_bytes = 4000;
  const Folder folder;
  Scheduler scheduler(ConnectOptions{.address = fake.address()});
  const auto summary = DownloadManifest(&scheduler, {TwoFiles(&fake), folder / "out", ""}, nullptr);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->files, 2);
  EXPECT_EQ(*ReadFile(folder / "out/a/big.bin"), std::string(9'500, 'b'));
  EXPECT_FALSE(FileExists(folder / "out/a/big.bin.partial"));
  EXPECT_THAT(fake.download_offsets, ElementsAre(0, 4000, 8000));
  const auto again = DownloadManifest(&scheduler, {TwoFiles(&fake), folder / "out", ""}, nullptr);
  EXPECT_EQ(again->files_skipped, 2);
}

// What gRPC answers while a server goes down, though nobody has cancelled anything.
TEST(Download, GoesOnWhenTheSchedulerIsRestarted) {
  FakeScheduler fake;
  fake.cut_download_after_bytes = 4000;
  fake.cut_code = grpc::StatusCode::CANCELLED;
  const Folder folder;
  Scheduler scheduler(ConnectOptions{.address = fake.address()});
  const auto summary = DownloadManifest(&scheduler, {TwoFiles(&fake), folder / "out", ""}, nullptr);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(*ReadFile(folder / "out/a/big.bin"), std::string(9'500, 'b'));
}

TEST(Download, GoesOnFromAPartialFileOfAnEarlierRun) {
  FakeScheduler fake;
  const Folder folder;
  const v1::Manifest manifest = TwoFiles(&fake);
  folder.Write("a/big.bin.partial", std::string(5'000, 'b'));
  Scheduler scheduler(ConnectOptions{.address = fake.address()});
  ASSERT_TRUE(DownloadManifest(&scheduler, {manifest, folder.path(), "a/big.bin"}, nullptr).ok());
  EXPECT_THAT(fake.download_offsets, ElementsAre(5000));
  // A partial file with other bytes is found out, dropped, and the next run starts anew.
  std::filesystem::remove(folder / "a/big.bin");
  folder.Write("a/big.bin.partial", std::string(5'000, 'x'));
  EXPECT_TRUE(absl::IsDataLoss(
      DownloadManifest(&scheduler, {manifest, folder.path(), ""}, nullptr).status()));
  EXPECT_TRUE(DownloadManifest(&scheduler, {manifest, folder.path(), ""}, nullptr).ok());
}

TEST(Download, RefusesWrongBytesAndHostileNames) {
  FakeScheduler fake;
  const Folder folder;
  v1::Manifest manifest = TwoFiles(&fake);
  Scheduler scheduler(ConnectOptions{.address = fake.address()});
  fake.corrupt_downloads = true;
  EXPECT_TRUE(absl::IsDataLoss(
      DownloadManifest(&scheduler, {manifest, folder.path(), ""}, nullptr).status()));
  EXPECT_FALSE(FileExists(folder / "a/big.bin"));
  EXPECT_TRUE(absl::IsNotFound(
      DownloadManifest(&scheduler, {manifest, folder.path(), "nope"}, nullptr).status()));
  for (const std::string& path : EvilPaths()) {
    manifest.mutable_files(0)->set_path(path);
    EXPECT_TRUE(absl::IsInvalidArgument(
        DownloadManifest(&scheduler, {manifest, folder.path(), ""}, nullptr).status()))
        << path;
  }
  fake.corrupt_downloads = false;
  for (const std::string& path : OddPaths()) {
    manifest.mutable_files(0)->set_path(path);
    EXPECT_TRUE(DownloadManifest(&scheduler, {manifest, folder / "odd", path}, nullptr).ok());
    EXPECT_TRUE(FileExists(folder / ("odd/" + path))) << path;
  }
  manifest.mutable_files(0)->set_path("huge");
  manifest.mutable_files(0)->mutable_blob()->set_size_bytes(int64_t{1} << 60);
  EXPECT_TRUE(absl::IsResourceExhausted(
      DownloadManifest(&scheduler, {manifest, folder.path(), ""}, nullptr).status()));
}

TEST(Examples, AreValid) {
  const std::string root = std::string(QUANTD_SOURCE_DIR) + "/examples/";
  v1::SweepSpec sweep;
  for (const char* name : {"quick.yaml", "study.yaml", "coqa_sweep.yaml", "model_ladder.yaml"}) {
    const absl::Status status = YamlToMessage(*ReadFile(root + name), name, &sweep);
    EXPECT_TRUE(status.ok()) << status;
  }
  for (const char* name : {"quantize.yaml", "evaluate.yaml"}) {
    v1::JobSpec job;
    const absl::Status job_status = YamlToMessage(*ReadFile(root + name), name, &job);
    EXPECT_TRUE(job_status.ok()) << job_status;
  }
}

}  // namespace
}  // namespace quantd
