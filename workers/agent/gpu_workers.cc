// See gpu_workers.h.
#include "workers/agent/gpu_workers.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/log.h"

namespace quantd {
namespace {

constexpr int kSignalled = 128;  // Added to a signal's number for an exit code, as shells do.
// One that dies at once must not keep the machine busy with starting it.
constexpr absl::Duration kRestartPause = absl::Seconds(1);

absl::Duration Now() { return Clock::Real().Monotonic(); }

// The processes of RunEachInProcess. This one stays single-threaded, so that it can fork anew.
class Processes {
 public:
  explicit Processes(const std::function<int(size_t)>& work) : work_(work) {
    sigemptyset(&signals_);
    for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&signals_, number);
    pthread_sigmask(SIG_BLOCK, &signals_, &before_);
  }

  void Start(size_t index) {
    const pid_t pid = fork();
    if (pid == 0) {
      pthread_sigmask(SIG_SETMASK, &before_, nullptr);
      // A terminal's Ctrl-C comes through the parent alone, and its end is one of ours.
      setpgid(0, 0);
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      exit(work_(index));
    }
    if (pid > 0) {
      running_[pid] = index;
      return;
    }
    LogError("no process for a worker; trying again", {{"error", strerror(errno)}, {"gpu", index}});
    due_.emplace_back(Now() + kRestartPause, index);
  }

  int Wait() {
    while (!running_.empty() || !due_.empty()) {
      const int received = NextSignal();
      if (received == SIGCHLD) {
        Reap();
      } else if (received > 0) {
        for (const auto& [pid, index] : running_) kill(pid, received);
        stopping_ |= received != SIGHUP;
      }
      if (stopping_) due_.clear();
      while (!due_.empty() && due_.front().first <= Now()) {
        const size_t index = due_.front().second;
        due_.pop_front();
        Start(index);
      }
    }
    return worst_;
  }

 private:
  // -1: a worker is due.
  int NextSignal() const {
    if (due_.empty()) return sigwaitinfo(&signals_, nullptr);
    const timespec left = absl::ToTimespec(std::max(due_.front().first - Now(), absl::Duration()));
    return sigtimedwait(&signals_, nullptr, &left);
  }

  void Reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      const auto ended = running_.find(pid);
      if (ended == running_.end()) continue;
      const size_t index = ended->second;
      running_.erase(ended);
      if (WIFSIGNALED(status) && !stopping_) {
        LogWarning("a GPU's worker was killed; starting it again",
                   {{"gpu", index}, {"signal", strsignal(WTERMSIG(status))}});
        due_.emplace_back(Now() + kRestartPause, index);
        continue;
      }
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : kSignalled + WTERMSIG(status);
      LogInfo("a GPU's worker has ended", {{"gpu", index}, {"exit", code}});
      worst_ = std::max(worst_, code);
    }
  }

  const std::function<int(size_t)>& work_;
  sigset_t signals_, before_;
  std::map<pid_t, size_t> running_;
  std::deque<std::pair<absl::Duration, size_t>> due_;  // When to start which, the next one first.
  bool stopping_ = false;
  int worst_ = 0;
};

}  // namespace

std::vector<std::string> VisibleGpus(const char* named) {
  if (named != nullptr) return absl::StrSplit(named, ',', absl::SkipWhitespace());
  std::vector<std::string> gpus;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/dev", error)) {
    const std::string file = entry.path().filename().string();
    absl::string_view number = file;
    int ignored = 0;
    if (absl::ConsumePrefix(&number, "nvidia") && absl::SimpleAtoi(number, &ignored)) {
      // Of the files that a container has, CUDA counts from 0 whatever their names.
      gpus.push_back(absl::StrCat(gpus.size()));
    }
  }
  return gpus;
}

absl::StatusOr<std::vector<size_t>> ChooseGpus(absl::string_view flag,
                                               const std::vector<std::string>& visible) {
  std::vector<size_t> chosen;
  size_t number = 0;
  if (flag == "all") {
    for (size_t i = 0; i < visible.size(); ++i) chosen.push_back(i);
  } else if (absl::SimpleAtoi(flag, &number) && number < visible.size()) {
    chosen.push_back(number);
  }
  if (!chosen.empty()) return chosen;
  return absl::InvalidArgumentError(
      absl::StrCat("--gpu ", flag, ": must be all or the number of a GPU, and there are ",
                   visible.size(), visible.empty() ? "" : ", counted from 0"));
}

void UseGpu(const std::string& gpu) {
  setenv(kVisibleGpus, gpu.c_str(), 1);
  setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0);  // As nvidia-smi counts.
}

int RunEachInProcess(size_t count, const std::function<int(size_t)>& work) {
  Processes processes(work);
  for (size_t i = 0; i < count; ++i) processes.Start(i);
  return processes.Wait();
}

}  // namespace quantd
