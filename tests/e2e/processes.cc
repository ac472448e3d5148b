// fork, exec, /proc.
#include "tests/e2e/processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/file.h"

namespace quantd::e2e {

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "quantd_e2e_XXXXXX").string();
  QD_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  if (getenv("QUANTD_KEEP_TEST_FOLDERS") == nullptr) RemoveTree(path_).IgnoreError();
}

Process::Process(std::vector<std::string> command, std::string log_path,
                 std::map<std::string, std::string> environment)
    : log_path_(std::move(log_path)) {
  const pid_t parent = getpid();
  pid_ = fork();
  QD_CHECK(pid_ >= 0);
  if (pid_ != 0) {
    setpgid(pid_, pid_);
    return;
  }
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  const int log = open(log_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, 0);
  dup2(log, 1);
  dup2(log, 2);
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> arguments;
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execv(arguments[0], arguments.data());
  _exit(127);
}

Process::~Process() {
  if (Running()) kill(-pid_, SIGKILL);
  Wait(absl::Seconds(10));
}

bool Process::Running() {
  if (status_ != -1) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return false;
}

void Process::Signal(int signal) { kill(pid_, signal); }

int Process::Wait(absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (Running()) {
    if (absl::Now() > end) return -1;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return status_;
}

std::string Process::Log() const { return ReadFile(log_path_).value_or(""); }

Output RunCommand(std::vector<std::string> command, absl::Duration limit,
                  std::map<std::string, std::string> environment) {
  const TemporaryFolder folder;
  Process process(std::move(command), folder / "log", std::move(environment));
  Output output;
  output.status = process.Wait(limit);
  output.text = process.Log();
  return output;
}

namespace {

pid_t ParentOf(pid_t pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(stat, line);
  // "pid (name) state parent ...": the name may hold anything, so the last ')' counts.
  const size_t close = line.rfind(')');
  if (close == std::string::npos) return -1;
  const std::vector<std::string> fields = absl::StrSplit(line.substr(close + 2), ' ');
  // A zombie has ended; only nobody has asked for its status yet.
  if (fields.size() < 2 || fields[0] == "Z") return -1;
  return static_cast<pid_t>(std::stol(fields[1]));
}

}  // namespace

std::vector<pid_t> Descendants(pid_t root) {
  std::multimap<pid_t, pid_t> children;
  DIR* proc = opendir("/proc");
  QD_CHECK(proc != nullptr);
  while (const dirent* entry = readdir(proc)) {
    const pid_t pid = static_cast<pid_t>(std::atol(entry->d_name));
    if (pid > 0) children.emplace(ParentOf(pid), pid);
  }
  closedir(proc);
  std::vector<pid_t> found;
  const auto walk = [&](const auto& self, pid_t pid) -> void {
    const auto [begin, end] = children.equal_range(pid);
    for (auto it = begin; it != end; ++it) {
      self(self, it->second);
      found.push_back(it->second);
    }
  };
  walk(walk, root);
  return found;
}

std::string ProgramName(pid_t pid) {
  std::error_code error;
  const auto target = std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/exe"), error);
  return error ? "" : target.filename().string();
}

std::string Program(const std::string& name) {
  return absl::StrCat(QUANTD_BINARY_DIR, "/bin/", name);
}

std::string Source(const std::string& path) { return absl::StrCat(QUANTD_SOURCE_DIR, "/", path); }

}  // namespace quantd::e2e
