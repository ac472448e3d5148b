// fork and exec with nothing but async-signal-safe calls in between: the worker has threads.
#include "workers/agent/child_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/agent/confinement.h"

extern char** environ;

namespace quantd {
namespace {

constexpr char kTagVariable[] = "QUANTD_CHILD";
constexpr char kOwnerVariable[] = "QUANTD_CHILD_OWNER";
constexpr int kErrorFd = 4;  // In the child, until exec succeeds.
constexpr size_t kOutputBytesMax = size_t{4} << 20;

// What lives now, so that one child's clean-up leaves its siblings alone.
struct Registry {
  absl::Mutex mutex;
  std::set<pid_t> pids;
  std::set<std::string> tags;
  std::string owner;
};
Registry& Children() {
  static auto* registry = new Registry;
  return *registry;
}

class Pipe {
 public:
  ~Pipe() {
    Close(0);
    Close(1);
  }
  absl::Status Open() {
    if (pipe2(fds_, O_CLOEXEC) != 0) return ErrnoStatus(errno, "opening a pipe for a child");
    // The child's ends are duplicated to 1…4; sources above them cannot be overwritten on the way.
    for (int& fd : fds_) {
      const int high = fcntl(fd, F_DUPFD_CLOEXEC, 10);
      if (high < 0) return ErrnoStatus(errno, "opening a pipe for a child");
      close(fd);
      fd = high;
    }
    return absl::OkStatus();
  }
  int read_end() const { return fds_[0]; }
  int write_end() const { return fds_[1]; }
  void CloseWrite() { Close(1); }
  int ReleaseRead() {
    const int fd = fds_[0];
    fds_[0] = -1;
    return fd;
  }

 private:
  void Close(int end) {
    if (fds_[end] >= 0) close(fds_[end]);
    fds_[end] = -1;
  }
  int fds_[2] = {-1, -1};
};

struct Prepared {
  std::vector<char*> argv;
  std::vector<char*> environment;
  const char* folder;
  const Confinement* confinement;
  int null_fd, output_fd, events_fd, error_fd;
  bool separate_errors;
  pid_t parent;
};

// In the child. Only async-signal-safe calls; never returns.
[[noreturn]] void ExecChild(const Prepared& p) {
  const auto fail = [&] {
    const int error = errno;
    const ssize_t ignored = write(kErrorFd, &error, sizeof(error));
    (void)ignored;
    _exit(127);
  };
  setpgid(0, 0);
  dup3(p.error_fd, kErrorFd, O_CLOEXEC);
  if (p.confinement != nullptr && !p.confinement->TakeUser()) fail();
  // Dead before this line: the signal would never come.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != p.parent) _exit(127);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGPIPE, SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_DFL);
  dup2(p.null_fd, 0);
  dup2(p.output_fd, 1);
  if (!p.separate_errors) dup2(p.output_fd, 2);
  if (p.events_fd >= 0) {
    dup2(p.events_fd, kEventsFd);
  } else {
    close(kEventsFd);
  }
  if (p.confinement != nullptr && !(p.confinement->LimitResources() && p.confinement->EnterFiles()))
    fail();
  if (syscall(SYS_close_range, kErrorFd + 1, ~0U, 0) != 0) {
    rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    for (rlim_t fd = kErrorFd + 1; fd < limit.rlim_cur && fd < 65'536; ++fd) {
      close(static_cast<int>(fd));
    }
  }
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  if (p.folder[0] != '\0' && chdir(p.folder) != 0) fail();
  if (p.confinement != nullptr && !p.confinement->EnterCalls()) fail();
  execve(p.argv[0], p.argv.data(), p.environment.data());
  fail();
  _exit(127);
}

std::string NewTag() {
  std::random_device random;
  return absl::StrFormat("%08x%08x", random(), random());
}

struct ProcessInfo {
  pid_t parent = -1;
  char state = '?';
};

ProcessInfo ReadStat(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::ostringstream text;
  text << in.rdbuf();
  const std::string stat = text.str();
  // The name stands in parentheses and may hold anything; what follows the last one is regular.
  const size_t end = stat.rfind(')');
  ProcessInfo info;
  if (end == std::string::npos) return info;
  const std::vector<std::string> words =
      absl::StrSplit(stat.substr(end + 1), ' ', absl::SkipEmpty());
  if (words.size() < 2) return info;
  info.state = words[0][0];
  int parent = -1;
  if (absl::SimpleAtoi(words[1], &parent)) info.parent = parent;
  return info;
}

std::string EnvironmentValue(pid_t pid, absl::string_view name) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/environ"), std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  const std::string all = text.str();
  for (absl::string_view entry : absl::StrSplit(all, '\0')) {
    if (absl::ConsumePrefix(&entry, name) && absl::ConsumePrefix(&entry, "=")) {
      return std::string(entry);
    }
  }
  return "";
}

std::vector<pid_t> AllProcesses() {
  std::vector<pid_t> pids;
  DIR* folder = opendir("/proc");
  if (folder == nullptr) return pids;
  while (const dirent* entry = readdir(folder)) {
    int pid = 0;
    if (absl::SimpleAtoi(entry->d_name, &pid)) pids.push_back(pid);
  }
  closedir(folder);
  return pids;
}

// A child of ours that no ChildProcess looks after: adopted from a dead parent.
bool IsAdopted(const ProcessInfo& info, pid_t pid) {
  if (info.parent != getpid()) return false;
  absl::MutexLock lock(&Children().mutex);
  return Children().pids.count(pid) == 0;
}

bool BelongsToLiveSibling(const std::string& tag, const std::string& own_tag) {
  absl::MutexLock lock(&Children().mutex);
  return tag != own_tag && Children().tags.count(tag) > 0;
}

std::vector<std::string> ChildEnvironment(const ChildCommand& command, const std::string& tag) {
  std::vector<std::string> entries;
  const auto dropped = [&](absl::string_view entry) {
    const absl::string_view name = entry.substr(0, entry.find('='));
    // An engine reads strangers' files: our own rights are none of its business.
    if (name == "QUANTD_TOKEN" || name == "QUANTD_TOKEN_FILE") return true;
    return std::find(command.dropped.begin(), command.dropped.end(), name) != command.dropped.end();
  };
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!dropped(*entry)) entries.emplace_back(*entry);
  }
  for (const auto& [name, value] : command.environment) {
    entries.push_back(absl::StrCat(name, "=", value));
  }
  entries.push_back(absl::StrCat(kTagVariable, "=", tag));
  absl::MutexLock lock(&Children().mutex);
  if (!Children().owner.empty()) {
    entries.push_back(absl::StrCat(kOwnerVariable, "=", Children().owner));
  }
  return entries;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const ChildCommand& command) {
  const std::string& program = command.argv[0];
  Pipe output, events, error;
  QD_RETURN_IF_ERROR(output.Open());
  QD_RETURN_IF_ERROR(error.Open());
  if (command.events) QD_RETURN_IF_ERROR(events.Open());
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null_fd < 0) return ErrnoStatus(errno, "opening /dev/null");

  std::unique_ptr<ChildProcess> child(new ChildProcess);
  child->tag_ = NewTag();
  std::vector<std::string> argv = command.argv;
  std::vector<std::string> environment = ChildEnvironment(command, child->tag_);
  const Prepared prepared = {.argv = Pointers(argv),
                             .environment = Pointers(environment),
                             .folder = command.working_folder.c_str(),
                             .confinement = command.confinement.get(),
                             .null_fd = null_fd,
                             .output_fd = output.write_end(),
                             .events_fd = events.write_end(),
                             .error_fd = error.write_end(),
                             .separate_errors = command.separate_errors,
                             .parent = getpid()};
  {
    // The registry is held over the fork, so that a sibling's clean-up never takes the child for a
    // stray.
    absl::MutexLock lock(&Children().mutex);
    child->pid_ = fork();
    if (child->pid_ == 0) ExecChild(prepared);
    if (child->pid_ > 0) {
      Children().pids.insert(child->pid_);
      Children().tags.insert(child->tag_);
    }
  }
  const int fork_error = errno;
  close(null_fd);
  if (child->pid_ < 0) return ErrnoStatus(fork_error, "starting ", program);
  setpgid(child->pid_, child->pid_);  // Both sides, so that whoever comes first finds the group.
  output.CloseWrite();
  events.CloseWrite();
  error.CloseWrite();
  int exec_error = 0;
  ssize_t got = 0;
  do {
    got = read(error.read_end(), &exec_error, sizeof(exec_error));
  } while (got < 0 && errno == EINTR);
  if (got == sizeof(exec_error)) {
    return ErrnoStatus(exec_error, "starting ", program, " in ", command.working_folder);
  }
  if (command.confinement != nullptr) {
    // When memory runs out, the kernel is to take the engine, not its worker.
    std::ofstream(absl::StrCat("/proc/", child->pid_, "/oom_score_adj")) << "500";
  }
  child->output_fd_ = output.ReleaseRead();
  child->events_fd_ = events.ReleaseRead();
  for (const int fd : {child->output_fd_, child->events_fd_}) {
    if (fd >= 0) fcntl(fd, F_SETFL, O_NONBLOCK);
  }
  return child;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0 && !exit_.has_value()) {
    Signal(SIGKILL);
    siginfo_t info;
    while (waitid(P_PID, pid_, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
    }
    TryReap();
  }
  if (output_fd_ >= 0) close(output_fd_);
  if (events_fd_ >= 0) close(events_fd_);
}

void ChildProcess::Signal(int signal) {
  if (pid_ > 0 && !exit_.has_value()) kill(-pid_, signal);
}

std::optional<ChildExit> ChildProcess::TryReap() {
  if (exit_.has_value()) return exit_;
  siginfo_t info = {};
  if (waitid(P_PID, pid_, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
    return std::nullopt;
  }
  kill(-pid_, SIGKILL);
  while (waitid(P_PID, pid_, &info, WEXITED) != 0 && errno == EINTR) {
  }
  exit_ = info.si_code == CLD_EXITED ? ChildExit{.code = info.si_status}
                                     : ChildExit{.signal = info.si_status};
  KillStrays();
  absl::MutexLock lock(&Children().mutex);
  Children().pids.erase(pid_);
  Children().tags.erase(tag_);
  return exit_;
}

void ChildProcess::KillStrays() {
  // A killed process hands its children to us, so a few rounds may be needed; a process that forks
  // faster than it is killed must not hold us for ever.
  constexpr int kRounds = 50;
  for (int round = 0; round < kRounds; ++round) {
    bool found = false;
    for (const pid_t pid : AllProcesses()) {
      if (pid == pid_ || pid == getpid()) continue;
      const ProcessInfo info = ReadStat(pid);
      const std::string tag = EnvironmentValue(pid, kTagVariable);
      const bool adopted = IsAdopted(info, pid) && !BelongsToLiveSibling(tag, tag_);
      if (!adopted && tag != tag_) continue;
      found = true;
      if (info.state != 'Z') kill(pid, SIGKILL);
      if (adopted) waitpid(pid, nullptr, WNOHANG);
    }
    if (!found) return;
    poll(nullptr, 0, 5);
  }
}

void BecomeSubreaper() { prctl(PR_SET_CHILD_SUBREAPER, 1); }

void SetChildOwner(const std::string& owner) {
  absl::MutexLock lock(&Children().mutex);
  Children().owner = owner;
}

int KillLeftovers() {
  std::string owner;
  {
    absl::MutexLock lock(&Children().mutex);
    owner = Children().owner;
  }
  if (owner.empty()) return 0;
  int killed = 0;
  for (const pid_t pid : AllProcesses()) {
    if (pid != getpid() && EnvironmentValue(pid, kOwnerVariable) == owner) {
      killed += kill(pid, SIGKILL) == 0 ? 1 : 0;
    }
  }
  return killed;
}

absl::StatusOr<CommandOutput> RunCommand(const ChildCommand& command, absl::Duration timeout) {
  QD_ASSIGN_OR_RETURN(const std::unique_ptr<ChildProcess> child, ChildProcess::Start(command));
  const absl::Duration end = Clock::Real().Monotonic() + timeout;
  CommandOutput result;
  bool open = true;
  while (true) {
    const std::optional<ChildExit> exit = child->TryReap();
    char buffer[65'536];
    ssize_t got = 0;
    while (open && (got = read(child->output_fd(), buffer, sizeof(buffer))) > 0) {
      if (result.output.size() < kOutputBytesMax) result.output.append(buffer, got);
    }
    if (got == 0) open = false;
    if (exit.has_value()) {
      result.exit = *exit;
      return result;
    }
    if (Clock::Real().Monotonic() > end) {
      return absl::DeadlineExceededError(absl::StrCat(
          "running ", command.argv[0], ": no end after ", absl::FormatDuration(timeout)));
    }
    pollfd waiting = {.fd = open ? child->output_fd() : -1, .events = POLLIN, .revents = 0};
    poll(&waiting, 1, 20);
  }
}

std::string DescribeExit(const ChildExit& exit) {
  if (exit.signal == 0) return absl::StrCat("exit code ", exit.code);
  return absl::StrCat("signal ", exit.signal, " (", strsignal(exit.signal), ")");
}

}  // namespace quantd
