// Parses the few lines of /proc that matter.
#include "workers/agent/machine_state.h"

#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"

namespace quantd {
namespace {

// Files in /proc have no size of their own, so base/file.h's ReadFile does not fit.
std::string ReadProc(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// The number after `key` at the start of a line, times `unit`; -1 if there is none.
int64_t Field(const std::string& text, absl::string_view key, int64_t unit) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, key)) continue;
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(": \t"), absl::SkipEmpty());
    int64_t value = 0;
    if (!words.empty() && absl::SimpleAtoi(words[0], &value)) return value * unit;
  }
  return -1;
}

int64_t OomKills() {
  const int64_t machine = Field(ReadProc("/proc/vmstat"), "oom_kill ", 1);
  std::string group_path;
  const std::string membership = ReadProc("/proc/self/cgroup");
  for (absl::string_view line : absl::StrSplit(membership, '\n')) {
    if (absl::ConsumePrefix(&line, "0::")) group_path = std::string(line);
  }
  const int64_t group =
      Field(ReadProc(absl::StrCat("/sys/fs/cgroup", group_path, "/memory.events")), "oom_kill ", 1);
  if (machine < 0 && group < 0) return -1;
  return std::max<int64_t>(machine, 0) + std::max<int64_t>(group, 0);
}

}  // namespace

MachineState MachineState::Read(const std::string& folder) {
  MachineState state;
  const std::string memory = ReadProc("/proc/meminfo");
  state.memory_total_bytes = Field(memory, "MemTotal", 1024);
  state.memory_available_bytes = Field(memory, "MemAvailable", 1024);
  state.oom_kills = OomKills();
  state.disk_free_bytes = FreeDiskBytes(folder).value_or(-1);
  const std::string load = ReadProc("/proc/loadavg");
  const std::vector<std::string> words = absl::StrSplit(load, ' ');
  if (words.size() >= 3) state.load = absl::StrCat(words[0], " ", words[1], " ", words[2]);
  return state;
}

ProcessMemory ReadProcessMemory(pid_t pid) {
  const std::string status = ReadProc(absl::StrCat("/proc/", pid, "/status"));
  return {.resident_bytes = Field(status, "VmRSS", 1024),
          .resident_peak_bytes = Field(status, "VmHWM", 1024)};
}

}  // namespace quantd
