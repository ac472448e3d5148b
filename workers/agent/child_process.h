// A child program in a process group of its own that cannot outlive us or leave anything behind:
// the kernel kills it when we die, its descendants are adopted by us when their parents go, and
// KillStrays() ends them. Its standard input is /dev/null, its output and errors are one pipe, its
// events another.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace quantd {

class Confinement;

struct ChildCommand {
  // argv[0] is the path of the program.
  std::vector<std::string> argv;
  std::string working_folder = {};
  // Added to our own environment.
  std::vector<std::pair<std::string, std::string>> environment = {};
  // Variables of our own environment that the child does not get. It never gets QUANTD_TOKEN.
  std::vector<std::string> dropped = {};
  // What the child may reach; nullptr: what we may.
  std::shared_ptr<const Confinement> confinement = nullptr;
  // Opens a pipe for the child's descriptor kEventsFd.
  bool events = false;
  // The child's errors go to our own, not into the output.
  bool separate_errors = false;
};

struct ChildExit {
  int code = 0;    // Of exit(), when signal is 0.
  int signal = 0;  // The signal that ended it.
};

// Descriptor number of the events pipe in the child.
inline constexpr int kEventsFd = 3;

// Not thread-safe. The thread that starts a child has to live until the child has been reaped: the
// kernel delivers the parent's death signal when that thread ends.
class ChildProcess {
 public:
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const ChildCommand& command);
  // Kills what is left.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Non-blocking; readable until the end of file. events_fd is -1 without events.
  int output_fd() const { return output_fd_; }
  int events_fd() const { return events_fd_; }
  // To the whole process group; without effect once the child has been reaped.
  void Signal(int signal);
  // The child's end if it has ended. Its group is killed first, while its process id is still its
  // own; then its strays. The same answer ever after.
  std::optional<ChildExit> TryReap();

 private:
  ChildProcess() = default;
  void KillStrays();

  pid_t pid_ = -1;
  int output_fd_ = -1;
  int events_fd_ = -1;
  std::string tag_;
  std::optional<ChildExit> exit_;
};

// Makes orphaned descendants ours. To be called once at start; without it strays go to init.
void BecomeSubreaper();

// Names this worker's children over its restarts: every child carries it in its environment.
void SetChildOwner(const std::string& owner);
// Kills processes of the same owner that an earlier, killed worker process left. Returns how many.
int KillLeftovers();

// Runs a short command to its end. Output beyond 4 MiB is dropped. DeadlineExceeded: it was killed.
struct CommandOutput {
  ChildExit exit;
  std::string output;
};
absl::StatusOr<CommandOutput> RunCommand(const ChildCommand& command, absl::Duration timeout);

// "exit code 3" or "signal 11 (Segmentation fault)".
std::string DescribeExit(const ChildExit& exit);

}  // namespace quantd
