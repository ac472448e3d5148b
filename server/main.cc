// quantd: reads the configuration, blocks the signals that end it, runs. `quantd migrate` moves a
// queue.
#include <signal.h>
#include <sys/stat.h>

#include <iostream>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "server/config.h"
#include "server/migrate.h"
#include "server/run.h"

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "migrate") {
    const auto words = quantd::Migrate({argv + 2, argv + argc});
    (words.ok() ? std::cout : std::cerr)
        << (words.ok() ? *words : absl::StrCat("quantd: ", words.status().message(), "\n"));
    return words.ok() ? 0 : absl::IsInvalidArgument(words.status()) ? 2 : 1;
  }
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
