// Ctrl-C on the real program: once detaches, twice cancels.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "client/testing.h"
#include "proto/yaml.h"

extern char** environ;

namespace quantd {
namespace {

class Child {
 public:
  explicit Child(std::vector<std::string> words) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    const std::string program = std::string(QUANTD_BINARY_DIR) + "/bin/quantctl";
    words.insert(words.begin(), program);
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, pointers.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    out_ = ends[0];
  }
  ~Child() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(out_);
  }

  // Reads until `text` has come; false at the end of the output.
  bool ReadUntil(const std::string& text) {
    char buffer[4096];
    while (output.find(text) == std::string::npos) {
      const ssize_t got = read(out_, buffer, sizeof buffer);
      if (got <= 0) return false;
      output.append(buffer, static_cast<size_t>(got));
    }
    return true;
  }
  void Interrupt() { kill(pid_, SIGINT); }
  int Wait() {
    char buffer[4096];
    for (ssize_t got; (got = read(out_, buffer, sizeof buffer)) > 0;) {
      output.append(buffer, static_cast<size_t>(got));
    }
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::string output;

 private:
  pid_t pid_ = 0;
  int out_ = -1;
};

class CtrlC : public ::testing::Test {
 protected:
  CtrlC() {
    EXPECT_TRUE(
        YamlToMessage("{name: tenants/default/jobs/j1, state: running}", "job", &fake_.job).ok());
    fake_.events.resize(1);
    EXPECT_TRUE(
        YamlToMessage("{sequence: 1, state: {state: running}}", "event", &fake_.events[0]).ok());
    fake_.endless = true;
  }
  FakeScheduler fake_;
};

TEST_F(CtrlC, OnceDetachesAndSaysHowToComeBack) {
  Child child({"--scheduler", fake_.address(), "jobs", "watch", "j1"});
  ASSERT_TRUE(child.ReadUntil("running")) << child.output;
  child.Interrupt();
  EXPECT_EQ(child.Wait(), 130);
  EXPECT_THAT(child.output, ::testing::HasSubstr("quantctl jobs watch j1"));
  EXPECT_EQ(fake_.cancels, 0);
}

TEST_F(CtrlC, TwiceCancels) {
  Child child({"--scheduler", fake_.address(), "verify", "org/name"});
  ASSERT_TRUE(child.ReadUntil("running")) << child.output;
  child.Interrupt();
  ASSERT_TRUE(child.ReadUntil("Ctrl-C again")) << child.output;
  child.Interrupt();
  EXPECT_EQ(child.Wait(), 130);
  EXPECT_EQ(fake_.cancels, 1);
  EXPECT_THAT(child.output, ::testing::HasSubstr("asked the scheduler to cancel"));
}

}  // namespace
}  // namespace quantd
