// An engine that tries to get out, with confinement and without it: what must fail fails, what an
// honest engine needs works, and without confinement the same tries succeed, so that the test would
// notice a fence that is not there.
#include "workers/agent/confinement.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "proto/channel.h"
#include "workers/agent/agent.h"
#include "workers/agent/child_process.h"
#include "workers/agent/testing/fake_scheduler.h"

namespace quantd {
namespace {

using ::testing::Contains;
using ::testing::Not;
namespace fs = std::filesystem;

class ConfinementTest : public testing::Test {
 protected:
  void SetUp() override {
    BecomeSubreaper();
    char pattern[] = "/tmp/quantd_confined_XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
    options_.name = "tester";
    options_.engine = std::string(QUANTD_BINARY_DIR) + "/bin/quantd-fake-engine";
    options_.data = folder_ + "/data";
    options_.poll = absl::Seconds(2);
    ASSERT_TRUE(MakeFolders(options_.data).ok());
    ASSERT_TRUE(WriteFileAtomic(options_.data + "/secret", "the worker's own").ok());
    support_ = ProbeConfinement();
  }
  void TearDown() override { RemoveTree(folder_).IgnoreError(); }

  void Confine() {
    options_.limits.confined = true;
    options_.limits.programs = EngineReadables(options_.engine);
    options_.limits.hub_cache = folder_ + "/hub";
    options_.limits.hub_token = folder_ + "/hub-token";
  }
  // One job of the fake engine's "escape".
  FakeScheduler::JobRecord Escape(v1::LeaseJobResponse grant = {}) {
    grant.mutable_spec()->set_display_name("escape");
    if (grant.spec().kind_case() == v1::JobSpec::KIND_NOT_SET)
      grant.mutable_spec()->mutable_verify();
    FakeScheduler scheduler;
    AgentMetrics metrics;
    const auto channel = grpc::CreateCustomChannel(
        scheduler.address(), grpc::InsecureChannelCredentials(), ClientChannelArguments());
    auto agent = Agent::Create(options_, channel, &metrics);
    EXPECT_TRUE(agent.ok()) << agent.status();
    if (!agent.ok()) return {};
    std::thread thread([&] { (*agent)->Run().IgnoreError(); });
    const std::string job = scheduler.Submit(std::move(grant));
    EXPECT_TRUE(scheduler.WaitDone(job));
    const FakeScheduler::JobRecord record = scheduler.Get(job);
    (*agent)->Drain();
    thread.join();
    EXPECT_TRUE(record.outcome.has_success()) << record.outcome.DebugString();
    return record;
  }
  static std::map<std::string, int> Numbers(const FakeScheduler::JobRecord& record,
                                            const std::string& group) {
    std::map<std::string, int> numbers;
    const auto& fields = record.outcome.success().result().fields();
    if (fields.count(group) == 0) return numbers;
    for (const auto& [name, value] : fields.at(group).struct_value().fields()) {
      numbers[name] = static_cast<int>(value.number_value());
    }
    return numbers;
  }
  static void ExpectHonestWorkDone(const FakeScheduler::JobRecord& record) {
    const auto honest = Numbers(record, "honest");
    EXPECT_EQ(honest.size(), 7u);
    for (const auto& [name, error] : honest) EXPECT_EQ(error, 0) << name << ": errno " << error;
  }

  std::string folder_;
  AgentOptions options_;
  ConfinementSupport support_;
};

TEST_F(ConfinementTest, WithoutItTheTriesSucceed) {
  const auto record = Escape();
  ExpectHonestWorkDone(record);
  const auto tried = Numbers(record, "tried");
  for (const char* name :
       {"internet", "local_socket", "read_worker_file", "write_worker_file", "write_own_spec",
        "create_outside", "signal_worker", "run_dropped_program"}) {
    ASSERT_EQ(tried.count(name), 1u) << name;
    EXPECT_EQ(tried.at(name), 0) << name;
  }
}

TEST_F(ConfinementTest, AConfinedEngineReachesNothingButItsJob) {
  if (!support_.complete()) GTEST_SKIP() << "this kernel offers " << support_.Describe();
  Confine();
  const auto record = Escape();
  ExpectHonestWorkDone(record);
  const auto tried = Numbers(record, "tried");
  EXPECT_EQ(tried.size(), 12u);
  for (const auto& [name, error] : tried) {
    // Before version 6 Landlock knows no signals.
    if (name == "signal_worker" && support_.landlock < 6) continue;
    EXPECT_GT(error, 0) << name << " succeeded";
  }
  EXPECT_FALSE(fs::exists(folder_ + "/quantd_escaped_" + std::to_string(getpid())));
}

TEST_F(ConfinementTest, AJobThatFetchesHasTheNetworkAndNothingElseMore) {
  if (!support_.complete()) GTEST_SKIP() << "this kernel offers " << support_.Describe();
  Confine();
  v1::LeaseJobResponse grant;
  grant.mutable_spec()->mutable_verify()->set_model("org/name");
  const auto tried = Numbers(Escape(grant), "tried");
  EXPECT_EQ(tried.at("internet"), 0);
  EXPECT_GT(tried.at("read_worker_file"), 0);
  EXPECT_TRUE(fs::is_directory(folder_ + "/hub"));
}

TEST_F(ConfinementTest, AsAUserOfItsOwn) {
  const passwd* nobody = getpwnam("nobody");
  if (geteuid() != 0 || nobody == nullptr) GTEST_SKIP() << "needs root";
  Confine();
  chmod(folder_.c_str(), 0700);
  options_.limits.as_user = true;
  options_.limits.user = {.uid = nobody->pw_uid, .gid = nobody->pw_gid};
  const auto record = Escape();
  ExpectHonestWorkDone(record);
  EXPECT_EQ(record.outcome.success().result().fields().at("uid").number_value(), nobody->pw_uid);
}

TEST_F(ConfinementTest, SecretsComeThroughTheEnvironmentAndGoNowhere) {
  // The job's own value counts, not the worker's, and neither shows in what the engine says.
  setenv("HF_TOKEN", "hf_of_the_worker", 1);
  setenv("QUANTD_TOKEN", "qdt_of_the_worker", 1);
  v1::LeaseJobResponse grant;
  grant.mutable_spec()->add_secrets("HF_TOKEN");
  (*grant.mutable_secrets())["HF_TOKEN"] = "a value without a shape";
  const auto record = Escape(grant);
  unsetenv("HF_TOKEN");
  unsetenv("QUANTD_TOKEN");
  const auto& result = record.outcome.success().result().fields();
  EXPECT_EQ(result.at("secret_bytes").number_value(), 23);
  EXPECT_EQ(result.at("secret").string_value(), "***");
  EXPECT_EQ(result.at("token").string_value(), "");
  std::vector<std::string> lines;
  for (const v1::JobEvent& event : record.events) {
    if (event.has_log()) lines.push_back(event.log().text());
  }
  EXPECT_THAT(lines, Contains("my secret is ***"));
}

TEST_F(ConfinementTest, WhatASpecNamesDecides) {
  const auto spec = [](const std::string& model, const std::string& data = "") {
    v1::JobSpec made;
    made.mutable_evaluate()->set_model(model);
    made.mutable_evaluate()->add_tasks()->set_data(data);
    return made;
  };
  EXPECT_FALSE(NeedsNetwork(spec("/srv/model")));
  EXPECT_FALSE(NeedsNetwork(spec("jobs/a", "artifacts/b")));
  EXPECT_FALSE(NeedsNetwork(v1::JobSpec()));
  EXPECT_TRUE(NeedsNetwork(spec("org/name")));
  EXPECT_TRUE(NeedsNetwork(spec("/srv/model", "hf://data")));
  v1::JobSpec in_turns;
  in_turns.mutable_benchmark()->set_model("jobs/a");
  EXPECT_FALSE(NeedsNetwork(in_turns));
  in_turns.mutable_benchmark()->set_baseline("org/name");
  EXPECT_TRUE(NeedsNetwork(in_turns));

  // A Hub cache's snapshot: links into another folder.
  const std::string model = folder_ + "/snapshot", blobs = folder_ + "/blobs";
  ASSERT_TRUE(MakeFolders(model).ok() && MakeFolders(blobs).ok());
  ASSERT_TRUE(WriteFileAtomic(blobs + "/b1", "x").ok());
  fs::create_symlink("../blobs/b1", model + "/model.safetensors");
  EXPECT_THAT(SpecPaths(spec(model), {}), Contains(blobs + "/b1"));
  EXPECT_THAT(SpecPaths(spec(model), {}), Contains(model));
  EXPECT_THAT(SpecPaths(spec("/"), {}), testing::IsEmpty());
  EXPECT_THAT(SpecPaths(spec(model), {folder_ + "/blobs"}), testing::IsEmpty());
  EXPECT_THAT(SpecPaths(spec(model + "/../blobs"), {model}), testing::IsEmpty());
  EXPECT_THAT(SpecPaths(spec(model), {folder_}), Contains(model));
  EXPECT_THAT(EngineReadables(options_.engine),
              Contains(fs::path(options_.engine).parent_path().string()));
  EXPECT_THAT(EngineReadables(options_.engine), Not(Contains("/")));
}

}  // namespace
}  // namespace quantd
