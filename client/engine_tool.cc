// posix_spawn with an optional pipe.
#include "client/engine_tool.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"

extern char** environ;

namespace quantd {
namespace {

constexpr char kProgram[] = "quant-engine";
constexpr size_t kOutputBytesMax = size_t{16} << 20;

bool IsProgram(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0;
}

absl::StatusOr<int> Wait(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return ErrnoStatus(errno, "waiting for ", kProgram);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Everything until the pipe closes; what is beyond the limit is read and dropped, so that the child
// can end.
std::string Drain(int fd) {
  std::string output;
  char buffer[65536];
  for (;;) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return output;
    if (output.size() < kOutputBytesMax) output.append(buffer, static_cast<size_t>(got));
  }
}

}  // namespace

absl::StatusOr<std::string> FindEngine() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const std::string beside = (self.parent_path() / kProgram).string();
    if (IsProgram(beside)) return beside;
  }
  const char* path = std::getenv("PATH");
  for (const absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':')) {
    const std::string candidate = absl::StrCat(folder, folder.empty() ? "" : "/", kProgram);
    if (!folder.empty() && IsProgram(candidate)) return candidate;
  }
  return absl::NotFoundError(
      absl::StrCat(kProgram, " is neither beside quantctl nor on PATH; install it here to use it"));
}

absl::StatusOr<EngineRun> RunEngine(const std::vector<std::string>& arguments, bool capture) {
  QD_ASSIGN_OR_RETURN(const std::string program, FindEngine());
  int pipe_fds[2] = {-1, -1};
  if (capture && pipe2(pipe_fds, O_CLOEXEC) != 0) return ErrnoStatus(errno, "making a pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (capture) posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDOUT_FILENO);
  std::vector<std::string> words = {kProgram};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  pid_t child = 0;
  const int error =
      posix_spawn(&child, program.c_str(), &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (capture) close(pipe_fds[1]);
  EngineRun run;
  if (error == 0 && capture) run.output = Drain(pipe_fds[0]);
  if (capture) close(pipe_fds[0]);
  if (error != 0) return ErrnoStatus(error, "starting ", program);
  QD_ASSIGN_OR_RETURN(run.exit_code, Wait(child));
  return run;
}

}  // namespace quantd
