// Serves until a signal, then drains: what quantd does between its configuration and its exit code.
#include "server/run.h"

#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "server/acceptor.h"
#include "server/server.h"
#include "server/standalone_worker.h"

namespace quantd {
namespace {

// Kubernetes kills after 30 s.
constexpr unsigned kWatchdogSeconds = 25;
constexpr absl::Duration kWorkerStart = absl::Seconds(60);
constexpr int kWorkerDeathsMax = 3;

// The signal, or 0 after the timeout.
int WaitForSignal(const sigset_t& signals, absl::Duration timeout) {
  const timespec limit = absl::ToTimespec(timeout);
  const int signal = sigtimedwait(&signals, nullptr, &limit);
  return signal > 0 ? signal : 0;
}

std::vector<std::string> WorkerCommand(const Config& config, const Server& server) {
  std::vector<std::string> command = {config.worker_program};
  const std::pair<const char*, std::string> kFlags[] = {{"--scheduler", server.worker_address()},
                                                        {"--name", "standalone"},
                                                        {"--data", config.server.data + "/worker"},
                                                        {"--metrics-listen", "off"},
                                                        {"--drain-grace", "8"},
                                                        {"--log-format", config.log_format},
                                                        {"--log-level", config.log_level}};
  for (const auto& [flag, value] : kFlags) {
    command.push_back(flag);
    command.push_back(value);
  }
  return command;
}

}  // namespace

absl::Status Run(const Config& config, const sigset_t& signals) {
  RaiseOpenFilesLimit();
  auto server = Server::Start(config.server);
  if (!server.ok()) return server.status();
  std::unique_ptr<StandaloneWorker> worker;
  int signal = 0;
  absl::Status status;
  if (config.standalone) {
    std::vector<std::string> environment;
    if (!(*server)->worker_token().empty()) {
      environment.push_back("QUANTD_TOKEN=" + (*server)->worker_token());
    }
    worker = std::make_unique<StandaloneWorker>(WorkerCommand(config, **server), environment);
    const absl::Duration limit = Clock::Real().Monotonic() + kWorkerStart;
    while (signal == 0 && status.ok() && !(*server)->HasWorker()) {
      if (Clock::Real().Monotonic() > limit || worker->deaths() >= kWorkerDeathsMax) {
        status = absl::UnavailableError("the worker does not start; its own lines above say why");
      }
      signal = WaitForSignal(signals, absl::Milliseconds(50));
    }
  }
  if (signal == 0 && status.ok()) {
    if (!config.ready_file.empty()) {
      status = WriteFileAtomic(
          config.ready_file,
          absl::StrCat("{\"listen\": \"", (*server)->address(), "\", \"metrics\": \"",
                       (*server)->metrics_address(), "\", \"pid\": ", getpid(), "}\n"));
    }
    LogInfo("ready", {{"listen", (*server)->address()},
                      {"metrics", (*server)->metrics_address()},
                      {"data", config.server.data}});
  }
  while (signal == 0 && status.ok()) signal = WaitForSignal(signals, absl::Hours(1));
  if (signal != 0) LogInfo("draining; running jobs go on", {{"signal", strsignal(signal)}});
  std::thread([] {
    sleep(kWatchdogSeconds);
    LogError("the drain hangs; giving up");
    _exit(1);
  }).detach();
  (*server)->StartDraining();
  if (worker != nullptr) worker->Stop();  // While its last words are still heard.
  (*server)->Drain();
  if (!config.ready_file.empty()) unlink(config.ready_file.c_str());
  if (status.ok()) LogInfo("stopped");
  return status;
}

}  // namespace quantd
