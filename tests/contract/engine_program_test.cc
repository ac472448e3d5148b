// quant-engine run as the agent runs it: exit codes, events on their descriptor, files, signals.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/openmp_waits.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {
namespace {

using google::protobuf::util::JsonStringToMessage;
using ::testing::HasSubstr;

const std::string kModel = QUANTD_SOURCE_DIR "/models/tiny-6m";
const std::string kData = QUANTD_SOURCE_DIR "/examples/data/";

struct Outcome {
  int exit_code = -1;  // -1: a signal.
  std::vector<v1::JobEvent> events;
  std::string output;  // stdout of commands.
};

class EngineProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/quantd_engine_program.XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  // Starts the program with `arguments`; descriptor 3 is a pipe for events.
  pid_t Start(const std::vector<std::string>& arguments, int* events, int* output) {
    int event_pipe[2], output_pipe[2];
    EXPECT_EQ(pipe2(event_pipe, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(output_pipe, O_CLOEXEC), 0);
    std::vector<char*> argv = {const_cast<char*>(QUANT_ENGINE)};
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      // The pipe's own number may be 3 already: then only its close-on-exec flag has to go.
      if (event_pipe[1] == 3) {
        fcntl(3, F_SETFD, 0);
      } else {
        dup2(event_pipe[1], 3);
      }
      dup2(output_pipe[1], 1);
      execv(QUANT_ENGINE, argv.data());
      _exit(127);
    }
    close(event_pipe[1]);
    close(output_pipe[1]);
    *events = event_pipe[0];
    *output = output_pipe[0];
    return child;
  }

  static std::string Drain(int fd) {
    std::string text;
    char buffer[4096];
    for (ssize_t count; (count = read(fd, buffer, sizeof(buffer))) > 0;) {
      text.append(buffer, static_cast<size_t>(count));
    }
    close(fd);
    return text;
  }

  static Outcome Finish(pid_t child, const std::string& events, const std::string& output) {
    Outcome outcome;
    int status = 0;
    waitpid(child, &status, 0);
    outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    outcome.output = output;
    for (const std::string& line :
         std::vector<std::string>(absl::StrSplit(events, '\n', absl::SkipEmpty()))) {
      const auto parsed = JsonStringToMessage(line, &outcome.events.emplace_back());
      EXPECT_TRUE(parsed.ok()) << parsed << "\n" << line;
    }
    return outcome;
  }

  Outcome Call(const std::vector<std::string>& arguments) {
    int events = -1, output = -1;
    const pid_t child = Start(arguments, &events, &output);
    std::string event_text;
    std::thread reader([&] { event_text = Drain(events); });
    const std::string output_text = Drain(output);
    reader.join();
    return Finish(child, event_text, output_text);
  }

  std::vector<std::string> RunArguments(const std::string& spec, const std::string& inputs = "{}") {
    EXPECT_TRUE(WriteFileAtomic(folder_ + "/spec.json", spec).ok());
    EXPECT_TRUE(WriteFileAtomic(folder_ + "/inputs.json", inputs).ok());
    return {"run",
            "--spec",
            folder_ + "/spec.json",
            "--inputs",
            folder_ + "/inputs.json",
            "--output",
            folder_ + "/out",
            "--work",
            folder_ + "/work",
            "--cache",
            folder_ + "/cache",
            "--events-fd",
            "3"};
  }
  Outcome Run(const std::string& spec, const std::string& inputs = "{}") {
    return Call(RunArguments(spec, inputs));
  }

  std::string folder_;
};

std::string EvaluateSpec(int limit) {
  return absl::StrCat(R"({"runtime":{"device":"cpu"},"evaluate":{"model":")", kModel,
                      R"(","tasks":[{"name":"perplexity","data":")", kData,
                      R"(wikitext-excerpt.txt","limit":)", limit,
                      R"(,"options":{"window":64}}]}})");
}

TEST_F(EngineProgram, EvaluatesAndReports) {
  const Outcome outcome = Run(EvaluateSpec(4));
  ASSERT_EQ(outcome.exit_code, 0);
  ASSERT_FALSE(outcome.events.empty());
  ASSERT_TRUE(outcome.events.back().has_result());
  const auto& values = outcome.events.back().result().values().fields();
  const double perplexity = values.at("metrics")
                                .struct_value()
                                .fields()
                                .at("perplexity")
                                .struct_value()
                                .fields()
                                .at("value")
                                .number_value();
  EXPECT_GT(perplexity, 10);
  EXPECT_LT(perplexity, 1000);
  bool artifact = false, progress = false;
  for (const v1::JobEvent& event : outcome.events) {
    artifact = artifact || event.artifact().file().path() == "samples_perplexity.jsonl";
    progress = progress || event.progress().phase() == "evaluate perplexity";
  }
  EXPECT_TRUE(artifact);
  EXPECT_TRUE(progress);
  EXPECT_TRUE(FileExists(folder_ + "/out/samples_perplexity.jsonl"));
  // The same through "jobs/..." and a report over it.
  const std::string inputs = absl::StrCat(
      R"({"jobs/b":{"path":")", folder_, R"(/out","state":"JOB_STATE_SUCCEEDED","spec":)",
      EvaluateSpec(4), R"(,"result":{"sizeBytes":10,"metrics":{}}}})");
  const Outcome report = Run(
      R"({"report":{"title":"t","variants":[{"name":"base","jobs":["jobs/b"],"baseline":true}]}})",
      inputs);
  EXPECT_EQ(report.exit_code, 0);
  for (const char* file : {"report.json", "report.md", "summary.csv"}) {
    EXPECT_TRUE(FileExists(absl::StrCat(folder_, "/out/", file)));
  }
}

TEST_F(EngineProgram, FailuresAreEventsWithAClass) {
  const struct {
    std::string spec;
    v1::ErrorClass error_class;
    const char* words;
  } kCases[] = {
      {"{", v1::ERROR_CLASS_INVALID_SPEC, "not valid JSON"},
      {R"({"evaluate":{"modl":"x"}})", v1::ERROR_CLASS_INVALID_SPEC, "evaluate.modl"},
      {R"({"evaluate":{"model":"/no/model","tasks":[{"name":"sanity"}]}})",
       v1::ERROR_CLASS_BAD_INPUT, "/no/model"},
      {absl::StrCat(R"({"quantize":{"model":")", kModel, R"(","method":"gtpq"}})"),
       v1::ERROR_CLASS_INVALID_SPEC, "there is no method \"gtpq\"; did you mean \"gptq\"?"},
      {absl::StrCat(R"({"quantize":{"model":")", kModel, R"(","method":"rtn","format":"x"}})"),
       v1::ERROR_CLASS_INVALID_SPEC, "there is no format \"x\"; there are: awq, "},
      {R"({"compare":{"variants":[{"name":"v","jobs":["jobs/x"]}]}})", v1::ERROR_CLASS_BAD_INPUT,
       "jobs/x"},
  };
  for (const auto& test : kCases) {
    const Outcome outcome = Run(test.spec);
    EXPECT_EQ(outcome.exit_code, 1) << test.spec;
    ASSERT_FALSE(outcome.events.empty()) << test.spec;
    ASSERT_TRUE(outcome.events.back().has_failure()) << test.spec;
    const v1::Failure& failure = outcome.events.back().failure();
    EXPECT_EQ(failure.error_class(), test.error_class) << failure.DebugString();
    EXPECT_THAT(failure.message(), HasSubstr(test.words));
    EXPECT_FALSE(failure.remedy().empty());
  }
}

TEST_F(EngineProgram, SigtermStopsAndTheNextRunGoesOn) {
  int events = -1, output = -1;
  const pid_t child = Start(RunArguments(EvaluateSpec(300)), &events, &output);
  // Stop it once a checkpoint is there.
  std::string text;
  char buffer[4096];
  for (ssize_t count; (count = read(events, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(count));
    if (text.find("\"checkpoint\"") != std::string::npos) kill(child, SIGTERM);
  }
  close(events);
  const Outcome outcome = Finish(child, text, Drain(output));
  EXPECT_EQ(outcome.exit_code, 3);
  ASSERT_TRUE(outcome.events.back().has_failure());
  EXPECT_EQ(outcome.events.back().failure().error_class(), v1::ERROR_CLASS_CANCELLED);
  EXPECT_EQ(Run(EvaluateSpec(300)).exit_code, 0);
}

TEST_F(EngineProgram, ThreadsThatWaitSpinOnlyWhereAskedTo) {
  for (const bool asked : {false, true}) {
    for (const OpenMpWait& wait : kOpenMpWaits) unsetenv(wait.name);
    if (asked) setenv("OMP_WAIT_POLICY", "active", 1);
    int events = -1, output = -1;
    const pid_t child = Start(RunArguments(EvaluateSpec(2)), &events, &output);
    std::string text(1, ' ');
    EXPECT_EQ(read(events, text.data(), 1), 1);  // It runs.
    std::ifstream file(absl::StrCat("/proc/", child, "/environ"));
    const std::string environment(std::istreambuf_iterator<char>(file), {});
    EXPECT_EQ(Finish(child, text + Drain(events), Drain(output)).exit_code, 0);
    if (asked) {
      EXPECT_THAT(environment, HasSubstr("OMP_WAIT_POLICY=active"));
      EXPECT_THAT(environment, ::testing::Not(HasSubstr("GOMP_SPINCOUNT")));
    } else {
      EXPECT_THAT(environment, HasSubstr("OMP_WAIT_POLICY=passive"));
      EXPECT_THAT(environment, HasSubstr("GOMP_SPINCOUNT=2000"));
    }
  }
  unsetenv("OMP_WAIT_POLICY");
}

TEST_F(EngineProgram, ACatalogIsPrinted) {
  const Outcome outcome = Call({"capabilities"});
  ASSERT_EQ(outcome.exit_code, 0);
  v1::Catalog catalog;
  const auto status = JsonStringToMessage(outcome.output, &catalog);
  ASSERT_TRUE(status.ok()) << status << outcome.output;
  EXPECT_EQ(catalog.kinds_size(), 6);
  EXPECT_GE(catalog.methods_size(), 2);
  EXPECT_GE(catalog.formats_size(), 1);
  EXPECT_GE(catalog.tasks_size(), 4);
  EXPECT_GE(catalog.architectures_size(), 4);
  ASSERT_GE(catalog.devices_size(), 1);
  EXPECT_EQ(catalog.devices(0).type(), "cpu");
}

TEST_F(EngineProgram, WrongUsageIsTwo) {
  EXPECT_EQ(Call({}).exit_code, 2);
  EXPECT_EQ(Call({"frobnicate"}).exit_code, 2);
  EXPECT_EQ(Call({"evaluate"}).exit_code, 2);
  EXPECT_EQ(Call({"evaluate", kModel, "--task", "sanity", "--option", "x"}).exit_code, 2);
  EXPECT_EQ(Call({"run", "--spec", "x"}).exit_code, 2);
  EXPECT_EQ(Call({"compare"}).exit_code, 2);
  EXPECT_EQ(Call({"--log-level", "loud", "version"}).exit_code, 2);
  EXPECT_EQ(Call({"version"}).exit_code, 0);
  EXPECT_EQ(Call({"--help"}).exit_code, 0);
  EXPECT_EQ(Call({"canary", "--device", "cpu"}).exit_code, 0);
}

TEST_F(EngineProgram, LocalCommandsGiveWhatScheduledJobsGive) {
  const Outcome outcome =
      Call({"evaluate", kModel, "--device", "cpu", "--task",
            absl::StrCat("perplexity=", kData, "wikitext-excerpt.txt"), "--option", "window=64",
            "--limit", "4", "--json", "-o", folder_ + "/local"});
  ASSERT_EQ(outcome.exit_code, 0);
  google::protobuf::Struct local;
  ASSERT_TRUE(JsonStringToMessage(outcome.output, &local).ok());
  const auto value = [](const google::protobuf::Struct& values) {
    return values.fields()
        .at("metrics")
        .struct_value()
        .fields()
        .at("perplexity")
        .struct_value()
        .fields()
        .at("value")
        .number_value();
  };
  const Outcome scheduled = Run(EvaluateSpec(4));
  ASSERT_EQ(scheduled.exit_code, 0);
  EXPECT_EQ(value(local), value(scheduled.events.back().result().values()));
  EXPECT_FALSE(FileExists(folder_ + "/local.work"));
  EXPECT_EQ(Call({"quantize", kModel, "--method", "gtpq", "-o", folder_ + "/typo"}).exit_code, 1);
  EXPECT_FALSE(FileExists(folder_ + "/typo.work")) << "there is nothing to go on from";
  const Outcome compared =
      Call({"compare", "a=" + folder_ + "/local", "b=" + folder_ + "/local", "--json"});
  EXPECT_EQ(compared.exit_code, 0);
  EXPECT_THAT(compared.output, HasSubstr("\"recommendation\""));
}

}  // namespace
}  // namespace quantd
