// See gpu_workers.h.
#include "workers/agent/gpu_workers.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/log.h"

namespace quantd {
namespace {

constexpr int kSignalled = 128;  // Added to a signal's number for an exit code, as shells do.

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
  sigset_t set, before;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, &before);
  std::map<pid_t, size_t> running;
  int worst = 0;
  for (size_t i = 0; i < count; ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      // A terminal's Ctrl-C comes through the parent alone, and its end is one of ours.
      setpgid(0, 0);
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      exit(work(i));
    }
    if (pid > 0) running[pid] = i;
    if (pid < 0) {
      LogError("no process for a worker", {{"error", strerror(errno)}, {"gpu", i}});
      worst = 1;
    }
  }
  while (!running.empty()) {
    int received = 0;
    sigwait(&set, &received);
    if (received != SIGCHLD) {
      for (const auto& [pid, index] : running) kill(pid, received);
      continue;
    }
    int status = 0;
    for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      const int code = WIFEXITED(status) ? WEXITSTATUS(status) : kSignalled + WTERMSIG(status);
      LogInfo("a GPU's worker has ended", {{"gpu", running[pid]}, {"exit", code}});
      running.erase(pid);
      worst = std::max(worst, code);
    }
  }
  return worst;
}

}  // namespace quantd
