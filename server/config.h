// The command line of quantd, and a YAML file with the same names: `listen: 127.0.0.1:7717`. Flags
// win over the file; an unknown key is an error with its line.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/log.h"
#include "server/server.h"

namespace quantd {

struct Config {
  ServerOptions server;
  LogOptions log;
  std::string log_format = "text";  // As given, for the child.
  std::string log_level = "info";
  std::string ready_file;
  bool standalone = false;
  std::string worker_program;  // Beside this program, for --standalone.
  // Not to run: print this and exit with 0 (--help, --version).
  std::string print_and_exit;
};

// `args` without the program's name. InvalidArgument says what to change.
absl::StatusOr<Config> ParseConfig(const std::vector<std::string>& args);

}  // namespace quantd
