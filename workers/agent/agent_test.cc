// The whole worker but for its main(), against a strict scheduler and a fake engine, over real gRPC
// and real processes.
#include "workers/agent/agent.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "proto/channel.h"
#include "workers/agent/child_process.h"
#include "workers/agent/testing/fake_scheduler.h"

namespace quantd {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;
using JobRecord = FakeScheduler::JobRecord;

std::vector<std::string> LogLines(const JobRecord& record, v1::LogLine::Source source) {
  std::vector<std::string> lines;
  for (const v1::JobEvent& event : record.events) {
    if (event.has_log() && event.log().source() == source) lines.push_back(event.log().text());
  }
  return lines;
}

bool SaysLine(const JobRecord& record, const std::string& text) {
  for (const v1::JobEvent& event : record.events) {
    if (event.has_log() && event.log().text() == text) return true;
  }
  return false;
}

class AgentTest : public testing::Test {
 protected:
  void SetUp() override {
    BecomeSubreaper();
    char pattern[] = "/tmp/quantd_agent_XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    data_ = pattern;
    options_.name = "tester";
    options_.engine = std::string(QUANTD_BINARY_DIR) + "/bin/quantd-fake-engine";
    options_.data = data_;
    options_.poll = absl::Seconds(2);
    options_.grace = {.cancel = absl::Seconds(1),
                      .drain = absl::Seconds(5),
                      .lease_lost = absl::Milliseconds(200)};
  }
  void TearDown() override {
    if (thread_.joinable()) StopAgent();
    // A child of ours that is still there is an orphan or a zombie.
    const int leftover = waitpid(-1, nullptr, WNOHANG);
    EXPECT_TRUE(leftover == -1 && errno == ECHILD) << "process " << leftover << " was left";
    RemoveTree(data_).IgnoreError();
  }

  void StartAgent() {
    const auto channel = grpc::CreateCustomChannel(
        scheduler_.address(), grpc::InsecureChannelCredentials(), ClientChannelArguments());
    auto agent = Agent::Create(options_, channel, &metrics_);
    ASSERT_TRUE(agent.ok()) << agent.status();
    agent_ = *std::move(agent);
    thread_ = std::thread([this] { end_ = agent_->Run(); });
  }
  void StopAgent() {
    agent_->Drain();
    thread_.join();
  }
  // Runs one job to its outcome.
  JobRecord RunJob(const std::string& behaviour) {
    const std::string job = scheduler_.Submit(behaviour);
    if (agent_ == nullptr) StartAgent();
    EXPECT_TRUE(scheduler_.WaitDone(job)) << behaviour;
    return scheduler_.Get(job);
  }
  bool WaitForLine(const std::string& job, const std::string& line) {
    return scheduler_.WaitFor(job, [&](const JobRecord& r) { return SaysLine(r, line); });
  }

  FakeScheduler scheduler_;
  std::string data_;
  AgentOptions options_;
  AgentMetrics metrics_;
  std::unique_ptr<Agent> agent_;
  std::thread thread_;
  absl::Status end_;
};

TEST_F(AgentTest, SucceedsWithArtifactsLogsAndResult) {
  const JobRecord job = RunJob("success");
  ASSERT_TRUE(job.outcome.has_success());
  EXPECT_EQ(job.completions, 1);
  EXPECT_EQ(job.outcome.success().result().fields().at("answer").number_value(), 42);
  const v1::Manifest& output = job.outcome.success().output();
  ASSERT_EQ(output.files_size(), 3);
  EXPECT_EQ(output.files(0).path(), "model.safetensors");
  EXPECT_EQ(output.files(0).role(), "model");
  EXPECT_EQ(output.files(2).path(), "sub/quantization_metadata.json");
  EXPECT_EQ(scheduler_.BlobBytes(output.files(0).blob().sha256()).size(), 300'000);
  EXPECT_EQ(LogLines(job, v1::LogLine::ENGINE), (std::vector<std::string>{"starting", "done"}));
  int artifacts = 0, metrics = 0;
  for (const v1::JobEvent& event : job.events) {
    artifacts += event.has_artifact() ? 1 : 0;
    metrics += event.has_metric() ? 1 : 0;
    EXPECT_EQ(event.attempt(), 1);
    EXPECT_TRUE(event.has_time());
    if (event.has_artifact()) {
      EXPECT_EQ(event.artifact().file().blob().sha256().size(), 64);
    }
  }
  EXPECT_EQ(artifacts, 3);
  EXPECT_EQ(metrics, 1);
  EXPECT_EQ(job.events.back().result().values().fields().at("answer").number_value(), 42);
  StopAgent();
  EXPECT_TRUE(end_.ok()) << end_;
  EXPECT_TRUE(fs::is_empty(data_ + "/jobs")) << "a finished job leaves no folder";
  EXPECT_THAT(metrics_.Render(),
              HasSubstr("quantd_worker_attempts_total{kind=\"quantize\",outcome=\"succeeded\"} 1"));
  EXPECT_THAT(metrics_.Render(), HasSubstr("quantd_worker_layers_done_total 2"));
}

TEST_F(AgentTest, TheSameInputsAreWorkedOutOnce) {
  scheduler_.keeps_results = true;
  const std::string model = data_ + "-model";
  ASSERT_TRUE(MakeFolders(model).ok());
  ASSERT_TRUE(WriteFileAtomic(model + "/config.json", "{}").ok());
  const auto run = [&](const std::function<void(v1::JobSpec*)>& change) {
    v1::LeaseJobResponse grant;
    grant.mutable_spec()->set_display_name("success");
    grant.mutable_spec()->mutable_quantize()->set_model(model);
    grant.mutable_spec()->mutable_quantize()->set_method("rtn");
    change(grant.mutable_spec());
    const std::string job = scheduler_.Submit(grant);
    if (agent_ == nullptr) StartAgent();
    EXPECT_TRUE(scheduler_.WaitDone(job));
    return scheduler_.Get(job);
  };
  const auto worked = [](const JobRecord& job) {
    EXPECT_TRUE(job.outcome.has_success()) << job.outcome.ShortDebugString();
    EXPECT_EQ(job.outcome.success().output().files_size(), 3);
    return !LogLines(job, v1::LogLine::ENGINE).empty();
  };
  const auto same = [](v1::JobSpec*) {};
  const JobRecord first = run(same);
  EXPECT_TRUE(worked(first));
  EXPECT_EQ(first.outcome.success().input_digest().size(), 64);
  const JobRecord again = run([](v1::JobSpec* spec) { spec->set_priority(3); });
  EXPECT_FALSE(worked(again));
  EXPECT_EQ(again.outcome.success().input_digest(), first.outcome.success().input_digest());
  EXPECT_EQ(again.outcome.success().output().sha256(), first.outcome.success().output().sha256());
  EXPECT_EQ(again.events.back().result().values().fields().at("answer").number_value(), 42);
  EXPECT_TRUE(worked(run([](v1::JobSpec* spec) { spec->set_fresh(true); })));
  EXPECT_TRUE(worked(run([](v1::JobSpec* spec) { spec->mutable_runtime()->set_seed(1); })));
  // What is on the Hub today may be another tomorrow, but a commit stays what it is.
  const auto hub = [](const char* name) {
    return [name](v1::JobSpec* spec) { spec->mutable_quantize()->set_model(name); };
  };
  EXPECT_EQ(run(hub("org/name")).outcome.success().input_digest(), "");
  EXPECT_NE(run(hub("org/name@0123456789abcdef0123456789abcdef01234567"))
                .outcome.success()
                .input_digest(),
            "");
  // A definition may name data by itself.
  const auto own = [&](const std::string& data) {
    return [&model, data](v1::JobSpec* spec) {
      spec->mutable_evaluate()->set_model(model);
      v1::TaskSpec& task = *spec->mutable_evaluate()->add_tasks();
      task.set_data(data);
      (*task.mutable_options()->mutable_fields())["definition"].set_string_value("task: x");
    };
  };
  EXPECT_EQ(run(own("")).outcome.success().input_digest(), "");
  EXPECT_NE(run(own(model + "/config.json")).outcome.success().input_digest(), "");
  ASSERT_TRUE(WriteFileAtomic(model + "/config.json", "{ }").ok());
  EXPECT_TRUE(worked(run(same)));
  ASSERT_TRUE(WriteFileAtomic(model + "/config.json", "{}").ok());
  EXPECT_FALSE(worked(run(same))) << "the content counts, not the time";
  EXPECT_THAT(metrics_.Render(), HasSubstr("quantd_worker_results_reused_total 2"));
  RemoveTree(model).IgnoreError();
}

TEST_F(AgentTest, GivesInputsAndDownloadsOnlyWhatTheCacheLacks) {
  v1::LeaseJobResponse grant;
  grant.mutable_spec()->set_display_name("success");
  grant.mutable_spec()->mutable_evaluate()->set_model("jobs/base");
  v1::LeaseJobResponse::Input& model = *grant.add_inputs();
  model.set_reference("jobs/base");
  model.set_state(v1::JOB_STATE_SUCCEEDED);
  (*model.mutable_result()->mutable_fields())["size"].set_number_value(7);
  v1::ManifestFile& weights = *model.mutable_manifest()->add_files();
  weights.set_path("deep/model.safetensors");
  weights.set_role("model");
  *weights.mutable_blob() = scheduler_.AddBlob(std::string(500'000, 'w'));
  v1::LeaseJobResponse::Input& data = *grant.add_inputs();
  data.set_reference("artifacts/" + std::string(64, 'a'));
  v1::ManifestFile& text = *data.mutable_manifest()->add_files();
  text.set_path("calibration.jsonl");
  text.set_role("data");
  *text.mutable_blob() = scheduler_.AddBlob("{}\n");
  scheduler_.cut_downloads = 2;
  const std::string first = scheduler_.Submit(grant);
  const std::string second = scheduler_.Submit(grant);
  StartAgent();
  ASSERT_TRUE(scheduler_.WaitDone(second));
  const JobRecord job = scheduler_.Get(first);
  ASSERT_TRUE(job.outcome.has_success()) << job.outcome.DebugString();
  std::string seen;
  for (const v1::ManifestFile& file : job.outcome.success().output().files()) {
    if (file.path() == "seen_inputs.json") seen = scheduler_.BlobBytes(file.blob().sha256());
  }
  const auto inputs = nlohmann::json::parse(seen);
  EXPECT_THAT(inputs["jobs/base"]["path"].get<std::string>(), HasSubstr("/inputs/0"));
  EXPECT_EQ(inputs["jobs/base"]["state"], "JOB_STATE_SUCCEEDED");
  EXPECT_EQ(inputs["jobs/base"]["result"]["size"], 7);
  EXPECT_THAT(inputs[data.reference()]["path"].get<std::string>(),
              HasSubstr("/inputs/1/calibration.jsonl"));
  // Resumed after two cuts, and the second job found all in the cache: every byte travelled once.
  EXPECT_EQ(scheduler_.downloaded_bytes, 500'003);
}

TEST_F(AgentTest, SaysWhichInputIsGone) {
  v1::LeaseJobResponse grant;
  grant.mutable_spec()->set_display_name("success");
  grant.add_inputs()->set_reference("artifacts/gone");
  const std::string job = scheduler_.Submit(grant);
  StartAgent();
  ASSERT_TRUE(scheduler_.WaitDone(job));
  const v1::Failure failure = scheduler_.Get(job).outcome.failure();
  EXPECT_EQ(failure.error_class(), v1::ERROR_CLASS_BAD_INPUT);
  EXPECT_THAT(failure.message(), HasSubstr("artifacts/gone"));
}

TEST_F(AgentTest, ReportsACrashWithSignalLastLinesAndMachine) {
  const JobRecord job = RunJob("crash");
  ASSERT_TRUE(job.outcome.has_failure());
  const v1::Failure& failure = job.outcome.failure();
  EXPECT_EQ(failure.error_class(), v1::ERROR_CLASS_ENGINE_CRASH);
  EXPECT_EQ(failure.attempt(), 1);
  EXPECT_THAT(failure.message(), HasSubstr("signal 11 (Segmentation fault)"));
  const auto& details = failure.details();
  EXPECT_THAT(details.at("log.last_lines"), HasSubstr("last words 59"));
  EXPECT_THAT(details.at("log.last_lines"), HasSubstr("last words 20\n"));
  EXPECT_EQ(details.at("log.last_lines").find("last words 19\n"), std::string::npos);
  EXPECT_EQ(details.count("machine.memory_available_bytes"), 1);
  EXPECT_EQ(details.count("machine.disk_free_bytes"), 1);
  EXPECT_EQ(LogLines(job, v1::LogLine::ENGINE).size(), 60);
  EXPECT_TRUE(RunJob("success").outcome.has_success()) << "the device passed its check";
}

TEST_F(AgentTest, LeavesWhenTheDeviceIsNotSaneAfterACrash) {
  std::ofstream(data_ + "/canary_is_dead") << "x";
  const JobRecord job = RunJob("crash");
  EXPECT_TRUE(job.outcome.has_failure());
  thread_.join();
  EXPECT_FALSE(end_.ok());
  EXPECT_THAT(std::string(end_.message()), HasSubstr("not sane"));
  EXPECT_THAT(metrics_.Render(), HasSubstr("quantd_worker_cuda_canary_failures_total 1"));
}

TEST_F(AgentTest, StartedAgainWaitsUntilTheDeviceIsSane) {
  std::ofstream(data_ + "/canary_is_dead") << "x";
  options_.canary_retry = absl::Milliseconds(50);
  RunJob("crash");
  thread_.join();
  const std::string job = scheduler_.Submit("success");
  StartAgent();
  while (metrics_.Render().find("canary_failures_total 3") == std::string::npos) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(scheduler_.Get(job).attempt, 0);
  fs::remove(data_ + "/canary_is_dead");
  EXPECT_TRUE(scheduler_.WaitDone(job));
  EXPECT_TRUE(scheduler_.Get(job).outcome.has_success());
  StopAgent();
  EXPECT_TRUE(end_.ok()) << end_;
  // And one that is told to stop meanwhile does.
  std::ofstream(data_ + "/canary_is_dead") << "x";
  std::ofstream(data_ + "/device_suspect") << "";
  StartAgent();
  StopAgent();
  EXPECT_TRUE(end_.ok()) << end_;
}

TEST_F(AgentTest, PassesOnWhatTheEngineSays) {
  const JobRecord failed = RunJob("fail");
  EXPECT_EQ(failed.outcome.failure().error_class(), v1::ERROR_CLASS_BAD_INPUT);
  EXPECT_EQ(failed.outcome.failure().message(), "no such tensor");
  const JobRecord silent = RunJob("silent");
  EXPECT_EQ(silent.outcome.failure().error_class(), v1::ERROR_CLASS_ENGINE_CRASH);
  const JobRecord usage = RunJob("no-such-behaviour");
  EXPECT_EQ(usage.outcome.failure().error_class(), v1::ERROR_CLASS_INTERNAL);
}

TEST_F(AgentTest, CancelsCooperatively) {
  const std::string job = scheduler_.Submit("hang");
  options_.grace.cancel = absl::Minutes(10);
  scheduler_.lease_time = absl::Seconds(1);
  StartAgent();
  ASSERT_TRUE(WaitForLine(job, "hanging"));
  scheduler_.Cancel(job);
  ASSERT_TRUE(scheduler_.WaitDone(job));
  EXPECT_TRUE(scheduler_.Get(job).outcome.has_cancelled());
}

TEST_F(AgentTest, CancelsByForceWhatDoesNotListen) {
  const std::string job = scheduler_.Submit("stubborn");
  options_.grace.cancel = absl::Milliseconds(200);
  scheduler_.lease_time = absl::Seconds(1);
  StartAgent();
  ASSERT_TRUE(WaitForLine(job, "deaf"));
  scheduler_.Cancel(job);
  ASSERT_TRUE(scheduler_.WaitDone(job));
  EXPECT_TRUE(scheduler_.Get(job).outcome.has_cancelled());
}

TEST_F(AgentTest, EndsAnAttemptWhoseTimeIsUp) {
  v1::LeaseJobResponse grant;
  grant.mutable_spec()->set_display_name("hang");
  grant.mutable_run_time_left()->set_seconds(1);
  const std::string job = scheduler_.Submit(grant);
  StartAgent();
  ASSERT_TRUE(scheduler_.WaitDone(job));
  EXPECT_EQ(scheduler_.Get(job).outcome.failure().error_class(), v1::ERROR_CLASS_RUN_TIMEOUT);
}

TEST_F(AgentTest, KillsGrandchildrenThatHid) {
  const JobRecord job = RunJob("grandchild");
  ASSERT_TRUE(job.outcome.has_success());
  std::ifstream in(data_ + "/cache/grandchild.pid");
  pid_t pid = 0;
  in >> pid;
  ASSERT_GT(pid, 0);
  EXPECT_NE(kill(pid, 0), 0) << "the daemon lives on";
}

TEST_F(AgentTest, StopsWorkingForALostLeaseAndDiscards) {
  const std::string job = scheduler_.Submit("stubborn");
  scheduler_.lease_time = absl::Seconds(1);
  StartAgent();
  ASSERT_TRUE(WaitForLine(job, "deaf"));
  scheduler_.TakeAway(job, /*requeue=*/false);
  EXPECT_TRUE(RunJob("success").outcome.has_success()) << "the worker goes on with the next job";
  EXPECT_EQ(scheduler_.Get(job).completions, 0);
  EXPECT_THAT(metrics_.Render(), HasSubstr("quantd_worker_leases_lost_total 1"));
}

TEST_F(AgentTest, KeepsAJobThroughASchedulerRestart) {
  const std::string job = scheduler_.Submit("checkpoint:8:150");
  StartAgent();
  ASSERT_TRUE(WaitForLine(job, "resumes at 0"));
  scheduler_.Stop();
  absl::SleepFor(absl::Milliseconds(700));
  scheduler_.ForgetWorkers();
  scheduler_.Start();
  ASSERT_TRUE(scheduler_.WaitDone(job));
  const JobRecord record = scheduler_.Get(job);
  EXPECT_TRUE(record.outcome.has_success());
  EXPECT_EQ(record.attempt, 1);
  EXPECT_TRUE(RunJob("success").outcome.has_success());
  EXPECT_GE(scheduler_.registrations(), 2);
}

TEST_F(AgentTest, DeliversAFloodOnceAndInOrderOverABadLine) {
  scheduler_.refuse_reports = 3;
  scheduler_.lose_answers = 3;
  const JobRecord job = RunJob("flood:20000");
  ASSERT_TRUE(job.outcome.has_success());
  const std::vector<std::string> lines = LogLines(job, v1::LogLine::ENGINE);
  ASSERT_EQ(lines.size(), 20'000);
  for (int i = 0; i < 20'000; ++i) {
    ASSERT_EQ(lines[i].substr(0, lines[i].find(" of")), "line " + std::to_string(i));
  }
  int progress = 0;
  for (const v1::JobEvent& event : job.events) progress += event.has_progress() ? 1 : 0;
  EXPECT_LT(progress, 1'000) << "progress is conflated";
}

TEST_F(AgentTest, CutsLongLinesAndRepairsBytes) {
  const std::vector<std::string> lines = LogLines(RunJob("odd_lines"), v1::LogLine::ENGINE);
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(lines[0], std::string(16'384, 'x') + " [cut: 83616 bytes more]");
  EXPECT_EQ(lines[1], "bad \xEF\xBF\xBD\xEF\xBF\xBD bytes");
  EXPECT_EQ(lines[2], "no end");
}

TEST_F(AgentTest, SurvivesEventsThatAreNone) {
  const JobRecord job = RunJob("bad_events");
  EXPECT_TRUE(job.outcome.has_success());
  EXPECT_EQ(LogLines(job, v1::LogLine::WORKER).size(), 4);
  int metrics = 0;
  for (const v1::JobEvent& event : job.events) metrics += event.has_metric() ? 1 : 0;
  EXPECT_EQ(metrics, 1);
}

TEST_F(AgentTest, RefusesOutputsThatAreNotTheEnginesOwn) {
  const JobRecord outside = RunJob("outside");
  EXPECT_EQ(outside.outcome.failure().error_class(), v1::ERROR_CLASS_INTERNAL);
  EXPECT_THAT(outside.outcome.failure().message(), HasSubstr("../../../etc/passwd"));
  const JobRecord symlink = RunJob("symlink");
  EXPECT_EQ(symlink.outcome.failure().error_class(), v1::ERROR_CLASS_INTERNAL);
  EXPECT_THAT(symlink.outcome.failure().message(), HasSubstr("symbolic link"));
  EXPECT_EQ(scheduler_.uploaded_bytes, 0);
}

TEST_F(AgentTest, ResumesABrokenUpload) {
  scheduler_.cut_uploads = 3;
  const JobRecord job = RunJob("success");
  ASSERT_TRUE(job.outcome.has_success());
  // Two of the three files are "{}": one blob.
  EXPECT_EQ(scheduler_.uploaded_bytes, job.outcome.success().output().total_bytes() - 2)
      << "committed bytes are not sent again";
}

TEST_F(AgentTest, GivesTheEngineNothingButItsDescriptors) {
  const JobRecord job = RunJob("descriptors");
  ASSERT_TRUE(job.outcome.has_success());
  const auto& fields = job.outcome.success().result().fields();
  EXPECT_TRUE(fields.at("group_is_own").bool_value());
  const auto& open = fields.at("open").list_value().values();
  // 0 to 3, and the folder handle of the listing itself.
  ASSERT_EQ(open.size(), 5) << job.outcome.DebugString();
  EXPECT_THAT(open[0].string_value() + open[1].string_value() + open[2].string_value() +
                  open[3].string_value() + open[4].string_value(),
              HasSubstr("/dev/null"));
}

TEST_F(AgentTest, DrainStoresTheCheckpointAndGivesTheJobBack) {
  const std::string job = scheduler_.Submit("checkpoint:100:30");
  StartAgent();
  ASSERT_TRUE(scheduler_.WaitFor(
      job, [](const JobRecord& r) { return r.grant.checkpoint().files_size() >= 3; }));
  StopAgent();
  EXPECT_TRUE(end_.ok()) << end_;
  const JobRecord record = scheduler_.Get(job);
  EXPECT_EQ(record.releases, std::vector<std::string>{"preempted"});
  EXPECT_EQ(record.completions, 0);
  EXPECT_GE(record.grant.checkpoint().files_size(), 3);
}

TEST_F(AgentTest, ASecondDrainDoesNotWaitForTheEngine) {
  const std::string job = scheduler_.Submit("stubborn");
  options_.grace.drain = absl::Minutes(10);
  options_.drain_grace = absl::Minutes(20);
  StartAgent();
  ASSERT_TRUE(WaitForLine(job, "deaf"));
  agent_->Drain();
  agent_->Drain();
  thread_.join();
  EXPECT_EQ(scheduler_.Get(job).releases, std::vector<std::string>{"preempted"});
}

TEST_F(AgentTest, AnotherWorkerGoesOnFromTheCheckpoint) {
  const std::string job = scheduler_.Submit("checkpoint:12:30");
  StartAgent();
  ASSERT_TRUE(scheduler_.WaitFor(
      job, [](const JobRecord& r) { return r.grant.checkpoint().files_size() >= 5; }));
  StopAgent();
  ASSERT_TRUE(RemoveTree(data_).ok());  // Another machine has none of these files.
  ASSERT_TRUE(MakeFolders(data_).ok());
  StartAgent();
  ASSERT_TRUE(scheduler_.WaitDone(job));
  const JobRecord record = scheduler_.Get(job);
  ASSERT_TRUE(record.outcome.has_success()) << record.outcome.DebugString();
  EXPECT_GE(record.outcome.success().result().fields().at("resumed_from").number_value(), 4);
  EXPECT_EQ(record.outcome.success().output().files(0).blob().size_bytes(), 120'000);
}

TEST_F(AgentTest, LeavesWhenIdle) {
  options_.exit_when_idle = absl::Milliseconds(300);
  StartAgent();
  thread_.join();
  EXPECT_TRUE(end_.ok()) << end_;
}

TEST_F(AgentTest, TwoSlotsWorkSideBySide) {
  options_.slots = 2;
  const std::string first = scheduler_.Submit("hang");
  const std::string second = scheduler_.Submit("hang");
  StartAgent();
  ASSERT_TRUE(WaitForLine(first, "hanging"));
  ASSERT_TRUE(WaitForLine(second, "hanging"));
}

TEST_F(AgentTest, SaysClearlyThatThereIsNoEngine) {
  options_.engine = data_ + "/no-engine";
  const auto agent = Agent::Create(
      options_, grpc::CreateChannel("127.0.0.1:1", grpc::InsecureChannelCredentials()), &metrics_);
  ASSERT_FALSE(agent.ok());
  EXPECT_THAT(std::string(agent.status().message()), HasSubstr("no-engine capabilities"));
}

}  // namespace
}  // namespace quantd
