// The program quant-worker itself: signals, sudden death, the folder's lock, and that nothing is
// ever left behind.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "workers/agent/testing/fake_scheduler.h"

namespace quantd {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;
using JobRecord = FakeScheduler::JobRecord;

std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

class WorkerProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/quantd_worker_XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    data_ = pattern;
  }
  void TearDown() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      WaitExit();
    }
    EXPECT_EQ(Relatives(), "") << "processes were left behind";
    RemoveTree(data_).IgnoreError();
    unlink((data_ + ".log").c_str());
  }

  std::string Log() const { return Slurp(data_ + ".log"); }

  pid_t Spawn(std::vector<std::string> flags) {
    const std::string bin = std::string(QUANTD_BINARY_DIR) + "/bin/";
    std::vector<std::string> argv = {bin + "quant-worker", "--scheduler", scheduler_.address(),
                                     "--data", data_};
    if (flags.empty() || flags[0] != "--engine") {
      argv.insert(argv.end(), {"--engine", bin + "quantd-fake-engine"});
    }
    argv.insert(argv.end(), flags.begin(), flags.end());
    std::vector<char*> pointers;
    for (std::string& word : argv) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    const pid_t pid = fork();
    if (pid == 0) {
      const int log = open((data_ + ".log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      dup2(log, 1);
      dup2(log, 2);
      execv(pointers[0], pointers.data());
      _exit(126);
    }
    return pid;
  }
  void StartWorker(std::vector<std::string> flags = {}) { pid_ = Spawn(std::move(flags)); }
  // Exit code, or minus the signal.
  static int Wait(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  int WaitExit() {
    const int code = Wait(pid_);
    pid_ = -1;
    return code;
  }
  // Command lines of processes that have our data folder in theirs. A killed worker's child gets
  // its signal from the kernel a moment later, so this looks for a while.
  std::string Relatives() const {
    std::string found;
    for (int tries = 0; tries < 100; ++tries) {
      found.clear();
      for (const auto& entry : fs::directory_iterator("/proc")) {
        int pid = 0;
        if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
        const std::string line = Slurp(entry.path().string() + "/cmdline");
        if (absl::StrContains(line, data_ + "/")) found += line + "\n";
      }
      if (found.empty()) break;
      usleep(50'000);
    }
    return found;
  }
  bool WaitForCheckpoint(const std::string& job, int files, int attempt = 1) {
    return scheduler_.WaitFor(job, [=](const JobRecord& r) {
      return r.attempt == attempt && r.grant.checkpoint().files_size() >= files;
    });
  }

  FakeScheduler scheduler_;
  std::string data_;
  pid_t pid_ = -1;
};

TEST_F(WorkerProcessTest, KilledAtRandomMomentsTheJobGoesOnWhereItWas) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::minstd_rand random(seed);
  const std::string job = scheduler_.Submit("checkpoint:40:30");
  constexpr int kKills = 4;
  for (int kills = 1; kills <= kKills; ++kills) {
    StartWorker();
    ASSERT_TRUE(WaitForCheckpoint(job, 1 + 3 * kills, kills)) << Log();
    usleep(random() % 60'000);
    kill(pid_, SIGKILL);
    EXPECT_EQ(WaitExit(), -SIGKILL);
    EXPECT_EQ(Relatives(), "") << "the engine outlived its worker";
  }
  StartWorker();
  ASSERT_TRUE(scheduler_.WaitDone(job)) << Log();
  const JobRecord record = scheduler_.Get(job);
  ASSERT_TRUE(record.outcome.has_success()) << record.outcome.DebugString();
  EXPECT_EQ(record.completions, 1);
  EXPECT_EQ(record.attempt, kKills + 1);
  EXPECT_GE(record.outcome.success().result().fields().at("resumed_from").number_value(),
            3 * kKills);
  EXPECT_EQ(record.outcome.success().output().files(0).blob().size_bytes(), 400'000);
}

TEST_F(WorkerProcessTest, SigtermStoresTheCheckpointGivesTheJobBackAndExitsCleanly) {
  const std::string job = scheduler_.Submit("checkpoint:500:20");
  StartWorker();
  ASSERT_TRUE(WaitForCheckpoint(job, 3)) << Log();
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitExit(), 0) << Log();
  EXPECT_EQ(scheduler_.Get(job).releases, std::vector<std::string>{"preempted"});
}

TEST_F(WorkerProcessTest, SigtermEndsADeafEngineWithinTheGrace) {
  const std::string job = scheduler_.Submit("stubborn");
  StartWorker({"--drain-grace", "2"});
  ASSERT_TRUE(scheduler_.WaitFor(job, [](const JobRecord& r) { return r.accepted > 0; })) << Log();
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitExit(), 0) << Log();
  EXPECT_EQ(scheduler_.Get(job).releases, std::vector<std::string>{"preempted"});
}

TEST_F(WorkerProcessTest, SigtermWithoutASchedulerEndsToo) {
  const std::string job = scheduler_.Submit("stubborn");
  StartWorker({"--drain-grace", "2"});
  ASSERT_TRUE(scheduler_.WaitFor(job, [](const JobRecord& r) { return r.accepted > 0; })) << Log();
  scheduler_.Stop();
  kill(pid_, SIGINT);
  EXPECT_EQ(WaitExit(), 0) << Log();
}

TEST_F(WorkerProcessTest, KeepsItsNameAndSharesItsFolderWithNobody) {
  StartWorker({"--name", "gpu-7", "--labels", "zone=a,rack=3"});
  while (scheduler_.registrations() == 0) usleep(10'000);
  EXPECT_EQ(Slurp(data_ + "/name"), "gpu-7\n");
  EXPECT_EQ(Wait(Spawn({})), 1);
  EXPECT_THAT(Log(), HasSubstr("another quant-worker uses"));
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitExit(), 0);
  StartWorker({"--exit-when-idle", "0.2"});
  EXPECT_EQ(WaitExit(), 0) << Log();
  EXPECT_EQ(Slurp(data_ + "/name"), "gpu-7\n");
}

TEST_F(WorkerProcessTest, SighupAsksTheEngineAgain) {
  StartWorker();
  while (scheduler_.registrations() == 0) usleep(10'000);
  kill(pid_, SIGHUP);
  // A worker that waits for a job registers anew when the wait is over; jobs end it sooner.
  for (int i = 0; i < 50 && scheduler_.registrations() < 2; ++i) {
    ASSERT_TRUE(scheduler_.WaitDone(scheduler_.Submit("silent"))) << Log();
  }
  EXPECT_GE(scheduler_.registrations(), 2);
}

// What engines of the worker in that folder are given to see.
std::string GpuOfEngines(const std::string& folder) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    int pid = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    if (!absl::StrContains(Slurp(entry.path().string() + "/cmdline"), folder + "/")) continue;
    const std::string variables = Slurp(entry.path().string() + "/environ");
    for (const absl::string_view variable : absl::StrSplit(variables, '\0')) {
      absl::string_view value = variable;
      if (absl::ConsumePrefix(&value, "CUDA_VISIBLE_DEVICES=")) return std::string(value);
    }
  }
  return "none";
}

class WorkersTest : public WorkerProcessTest {
 protected:
  void SetUp() override {
    WorkerProcessTest::SetUp();
    setenv("CUDA_VISIBLE_DEVICES", "GPU-one,GPU-two", 1);
  }
  void TearDown() override {
    WorkerProcessTest::TearDown();
    unsetenv("CUDA_VISIBLE_DEVICES");
  }
  // The processes of --gpu all, in the order of their start.
  std::vector<pid_t> Workers() const {
    std::vector<pid_t> workers;
    for (const absl::string_view word :
         absl::StrSplit(Slurp(absl::StrCat("/proc/", pid_, "/task/", pid_, "/children")), ' ',
                        absl::SkipWhitespace())) {
      int pid = 0;
      if (absl::SimpleAtoi(word, &pid)) workers.push_back(pid);
    }
    return workers;
  }
  int Logged(absl::string_view words) const {
    return static_cast<int>(std::vector<std::string>(absl::StrSplit(Log(), words)).size()) - 1;
  }
};

TEST_F(WorkersTest, AWorkerForEachGpu) {
  const std::vector<std::string> jobs = {scheduler_.Submit("checkpoint:500:20"),
                                         scheduler_.Submit("checkpoint:500:20")};
  StartWorker({"--gpu", "all", "--name", "host", "--confine", "off"});
  for (const std::string& job : jobs) ASSERT_TRUE(WaitForCheckpoint(job, 2)) << Log();
  EXPECT_EQ(Slurp(data_ + "/gpu-0/name"), "host-gpu0\n");
  EXPECT_EQ(Slurp(data_ + "/gpu-1/name"), "host-gpu1\n");
  EXPECT_EQ(GpuOfEngines(data_ + "/gpu-0"), "GPU-one");
  EXPECT_EQ(GpuOfEngines(data_ + "/gpu-1"), "GPU-two");
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitExit(), 0) << Log();
  for (const std::string& job : jobs) {
    EXPECT_EQ(scheduler_.Get(job).releases, std::vector<std::string>{"preempted"});
  }
  // The parent's sudden end is theirs, too.
  StartWorker({"--gpu", "all", "--confine", "off"});
  for (const std::string& job : jobs) ASSERT_TRUE(WaitForCheckpoint(job, 3, 2)) << Log();
  kill(pid_, SIGKILL);
  EXPECT_EQ(WaitExit(), -SIGKILL);
  EXPECT_EQ(Wait(Spawn({"--gpu", "2"})), 2);
  EXPECT_THAT(Log(), HasSubstr("there are 2, counted from 0"));
}

TEST_F(WorkersTest, AWorkerForEachGpuThatIsKilledIsStartedAgain) {
  constexpr char kAgain[] = "was killed; starting it again";
  const std::vector<std::string> jobs = {scheduler_.Submit("checkpoint:500:20"),
                                         scheduler_.Submit("checkpoint:500:20")};
  StartWorker({"--gpu", "all", "--name", "host", "--confine", "off"});
  for (const std::string& job : jobs) ASSERT_TRUE(WaitForCheckpoint(job, 2)) << Log();
  const std::vector<pid_t> first = Workers();
  ASSERT_EQ(first.size(), 2u);
  kill(first[0], SIGKILL);
  // Its job goes on where it was, in the same folder on the same GPU.
  const auto again = [](const JobRecord& r) { return r.attempt == 2 && r.accepted > 0; };
  while (!again(scheduler_.Get(jobs[0])) && !again(scheduler_.Get(jobs[1]))) usleep(10'000);
  EXPECT_EQ(GpuOfEngines(data_ + "/gpu-0"), "GPU-one");
  EXPECT_EQ(scheduler_.Get(jobs[0]).attempt + scheduler_.Get(jobs[1]).attempt, 3)
      << "the other worker's job was disturbed";
  EXPECT_EQ(Logged(kAgain), 1) << Log();
  const std::vector<pid_t> second = Workers();
  ASSERT_EQ(second.size(), 2u) << Log();
  EXPECT_EQ(second[0], first[1]);
  // One that ends by itself has its reasons.
  kill(second[0], SIGTERM);
  while (Logged("worker has ended") == 0) usleep(10'000);
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitExit(), 0) << Log();
  EXPECT_EQ(Logged(kAgain), 1) << Log();
  EXPECT_EQ(Logged("worker has ended"), 2) << Log();
}

TEST_F(WorkersTest, AWorkerForEachGpuThatIsKilledWhileAllStopStaysAway) {
  const std::string job = scheduler_.Submit("stubborn");
  StartWorker({"--gpu", "all", "--drain-grace", "60", "--confine", "off"});
  ASSERT_TRUE(scheduler_.WaitFor(job, [](const JobRecord& r) { return r.accepted > 0; })) << Log();
  kill(pid_, SIGTERM);
  // The idle one leaves; the other one waits for its engine, which is deaf.
  while (Logged("worker has ended") == 0) usleep(10'000);
  ASSERT_EQ(Workers().size(), 1u) << Log();
  kill(Workers()[0], SIGKILL);
  EXPECT_EQ(WaitExit(), 128 + SIGKILL) << Log();
  EXPECT_EQ(Logged("starting it again"), 0) << Log();
}

TEST_F(WorkerProcessTest, SaysWhatIsWrongWithItsFlags) {
  EXPECT_EQ(Wait(Spawn({"--no-such-flag"})), 2);
  EXPECT_EQ(Wait(Spawn({"--labels", "nonsense"})), 2);
  EXPECT_EQ(Wait(Spawn({"--name", "a/b"})), 2);
  EXPECT_EQ(Wait(Spawn({"--engine", "/no/such/engine"})), 1);
  EXPECT_THAT(Log(), HasSubstr("must be key=value"));
  EXPECT_THAT(Log(), HasSubstr("/no/such/engine"));
}

}  // namespace
}  // namespace quantd
