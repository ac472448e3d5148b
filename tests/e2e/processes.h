// Real processes for end-to-end tests: started, watched, killed, and never left behind.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace quantd::e2e {

// A folder under the system's temporary one that goes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A child in its own process group; its output goes to `log_path`. Killed with its group when
// destroyed.
class Process {
 public:
  Process(std::vector<std::string> command, std::string log_path,
          std::map<std::string, std::string> environment = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  bool Running();
  // To the process alone.
  void Signal(int signal);
  // Exit status, or 128 + signal; -1 when it still runs after `limit`.
  int Wait(absl::Duration limit);
  std::string Log() const;

 private:
  pid_t pid_ = -1;
  int status_ = -1;
  std::string log_path_;
};

struct Output {
  int status = -1;
  // stdout and stderr together.
  std::string text;
};

// Runs to the end, or kills it after `limit` (status -1).
Output RunCommand(std::vector<std::string> command, absl::Duration limit = absl::Minutes(10),
                  std::map<std::string, std::string> environment = {});

// Living processes whose parents lead to `root`, children first; `root` itself is not among them.
std::vector<pid_t> Descendants(pid_t root);
// The base name of the process's program; empty when it is gone.
std::string ProgramName(pid_t pid);

// The program of this build: "quantd", "quant-worker", "quant-engine", "quantctl".
std::string Program(const std::string& name);
// A file of the source tree.
std::string Source(const std::string& path);

}  // namespace quantd::e2e
