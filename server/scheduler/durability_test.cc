// Acknowledged means on disk: a process that submits jobs and writes down what was acknowledged is
// killed with SIGKILL again and again; nothing that it wrote down may be missing afterwards.
//
// QUANTD_DURABILITY_KILLS=N kills N times.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_split.h"
#include "server/scheduler/queue_testing.h"

namespace quantd {
namespace {

constexpr int kSubmitters = 8;

// Never returns. Writes each acknowledged job's name as one line to `acknowledged`.
[[noreturn]] void SubmitUntilKilled(const std::string& path, int acknowledged) {
  auto store = OpenSqliteJobStore({.path = path, .durable = true});
  if (!store.ok()) _exit(3);
  const absl::Time now = absl::FromUnixSeconds(1'750'000'000);
  auto queue = Queue::Open(store->get(), {}, now);
  if (!queue.ok()) _exit(4);
  std::vector<std::thread> threads;
  for (int i = 0; i < kSubmitters; ++i) {
    threads.emplace_back([&] {
      while (true) {
        const auto response = (*queue)->SubmitJob(QuantizeRequest(), now);
        if (!response.ok()) _exit(5);
        const std::string line = response->job().name() + "\n";
        // One write of a short line to a pipe is whole or not there.
        if (write(acknowledged, line.data(), line.size()) != ssize_t(line.size())) _exit(6);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  _exit(7);
}

std::string ReadAll(int file) {
  std::string text;
  char buffer[4096];
  ssize_t size = 0;
  while ((size = read(file, buffer, sizeof(buffer))) > 0) text.append(buffer, size);
  return text;
}

TEST(Durability, AKilledSchedulerLosesNoAcknowledgedJob) {
  const char* wanted = getenv("QUANTD_DURABILITY_KILLS");
  const int kills = wanted == nullptr ? 8 : atoi(wanted);
  TestFolder folder;
  const std::string path = folder / "queue.db";
  TestRandom random(7);
  std::vector<std::string> acknowledged;
  for (int kill_number = 0; kill_number < kills; ++kill_number) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(pipe_ends[0]);
      SubmitUntilKilled(path, pipe_ends[1]);
    }
    close(pipe_ends[1]);
    char first = 0;
    ASSERT_EQ(read(pipe_ends[0], &first, 1), 1) << "the child died before its first submit";
    usleep(static_cast<useconds_t>(random.Below(60'000)));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "exit code " << WEXITSTATUS(status);
    for (absl::string_view line :
         absl::StrSplit(absl::StrCat(std::string(1, first), ReadAll(pipe_ends[0])), '\n')) {
      if (!line.empty()) acknowledged.emplace_back(line);
    }
    close(pipe_ends[0]);
    ASSERT_EQ(*CheckSqliteIntegrity(path), "ok");
  }
  auto store = OpenSqliteJobStore({.path = path, .durable = true});
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Time now = absl::FromUnixSeconds(1'750'000'100);
  auto queue = Queue::Open(store->get(), {}, now);
  ASSERT_TRUE(queue.ok()) << queue.status();
  for (const std::string& name : acknowledged) {
    v1::GetJobRequest request;
    request.set_name(name);
    const auto job = (*queue)->GetJob(request, now);
    ASSERT_TRUE(job.ok()) << name << ": " << job.status();
    EXPECT_EQ(job->state(), v1::JOB_STATE_QUEUED);
    EXPECT_EQ(job->last_sequence(), 1);
  }
  printf("%d kills, %zu acknowledged jobs, none lost\n", kills, acknowledged.size());
}

}  // namespace
}  // namespace quantd
