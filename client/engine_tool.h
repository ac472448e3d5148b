// quant-engine as a helper of the client: found beside quantctl or on PATH, run as a child process.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace quantd {

// NotFound says where it was looked for.
absl::StatusOr<std::string> FindEngine();

struct EngineRun {
  int exit_code = 0;  // 128 + signal, when it died of one.
  std::string output;
};
// Runs with stdin and stderr passed on. `capture`: stdout goes into EngineRun::output (at most 16
// MiB), else it is passed on too.
absl::StatusOr<EngineRun> RunEngine(const std::vector<std::string>& arguments, bool capture);

}  // namespace quantd
