// fork and exec from a thread that lives as long as the child may: PR_SET_PDEATHSIG follows the
// thread.
#include "server/standalone_worker.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/log.h"

namespace quantd {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(50);
constexpr absl::Duration kBackoff = absl::Milliseconds(500);
constexpr absl::Duration kBackoffMax = absl::Seconds(30);
// A child that lived for so long did not die of its start.
constexpr absl::Duration kLongLife = absl::Minutes(1);

// -1: fork failed. Between fork and exec only what is safe there.
pid_t Spawn(const std::vector<std::string>& command, const std::vector<std::string>& environment) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> variables;  // Ours first: of a name given twice, getenv takes the first.
  for (const std::string& entry : environment)
    variables.push_back(const_cast<char*>(entry.c_str()));
  for (char** entry = environ; *entry != nullptr; ++entry) variables.push_back(*entry);
  variables.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(127);
  execve(argv[0], argv.data(), variables.data());
  _exit(127);
}

}  // namespace

StandaloneWorker::StandaloneWorker(std::vector<std::string> command,
                                   std::vector<std::string> environment)
    : command_(std::move(command)),
      environment_(std::move(environment)),
      thread_([this] { Loop(); }) {}

StandaloneWorker::~StandaloneWorker() { Stop(); }

void StandaloneWorker::Stop(absl::Duration grace) {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    grace_ = grace;
  }
  if (thread_.joinable()) thread_.join();
}

void StandaloneWorker::Loop() {
  for (;;) {
    const absl::Duration start = Clock::Real().Monotonic();
    RunOnce();
    if (Clock::Real().Monotonic() - start > kLongLife) deaths_ = 0;
    absl::MutexLock lock(&mutex_);
    if (stop_) return;
    const int deaths = deaths_++;
    const absl::Duration pause = std::min(kBackoffMax, kBackoff * (1 << std::min(deaths, 10)));
    if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), pause)) return;
  }
}

void StandaloneWorker::RunOnce() {
  const pid_t pid = Spawn(command_, environment_);
  if (pid < 0)
    return LogError("the worker could not be started", {{"error", std::strerror(errno)}});
  absl::Duration kill_at = absl::InfiniteDuration();
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(pid, &status, WNOHANG);
    if (ended == pid || (ended < 0 && errno == ECHILD)) {
      const bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
      Log(clean ? LogLevel::kInfo : LogLevel::kWarning, "the worker has ended",
          {{"pid", pid},
           {"exit", WIFEXITED(status) ? WEXITSTATUS(status) : -1},
           {"signal", WIFSIGNALED(status) ? WTERMSIG(status) : 0}});
      return;
    }
    const absl::Duration now = Clock::Real().Monotonic();
    if (now >= kill_at) {
      kill(pid, SIGKILL);
      kill_at = absl::InfiniteDuration();
      // Its end comes with the next round; `stop_` is set already.
    }
    absl::MutexLock lock(&mutex_);
    const bool was_stopping = stop_;
    if (!was_stopping) mutex_.AwaitWithTimeout(absl::Condition(&stop_), kPoll);
    if (stop_ && !was_stopping) {
      kill(pid, SIGTERM);
      kill_at = now + grace_;
    }
    if (was_stopping) {
      mutex_.AwaitWithTimeout(absl::Condition(
                                  +[](bool*) { return false; }, &stop_),
                              kPoll);
    }
  }
}

}  // namespace quantd
