// quantd: reads the configuration, blocks the signals that end it, runs.
#include <signal.h>
#include <sys/stat.h>

#include <iostream>

#include "base/log.h"
#include "server/config.h"
#include "server/run.h"

int main(int argc, char** argv) {
  auto config = quantd::ParseConfig({argv + 1, argv + argc});
  if (!config.ok()) {
    std::cerr << "quantd: " << config.status().message() << "\n";
    return 2;
  }
  if (!config->print_and_exit.empty()) {
    std::cout << config->print_and_exit;
    return 0;
  }
  quantd::InitLog(config->log);
  umask(0077);  // Database, artifacts and tokens are this user's alone.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const absl::Status status = quantd::Run(*config, signals);
  if (status.ok()) return 0;
  quantd::LogError("quantd ends", {{"error", status.message()}});
  return 1;
}
