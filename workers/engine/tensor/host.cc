// Reads the kernel's text files. A file that is missing or odd means "no limit", never an error.
#include "workers/engine/tensor/host.h"

#include <malloc.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace quantd::engine {
namespace {

// Files under /proc and /sys have no size to go by, hence not base/file.h.
std::string Text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<int64_t> Number(absl::string_view text) {
  int64_t number = 0;
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &number)) return std::nullopt;
  return number;
}

// "VmHWM:   1234 kB" in bytes.
int64_t KibField(const std::string& text, absl::string_view field) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, field) || !absl::ConsumePrefix(&line, ":")) continue;
    line = absl::StripAsciiWhitespace(line);
    absl::ConsumeSuffix(&line, "kB");
    return Number(line).value_or(0) * 1024;
  }
  return 0;
}

// This process's cgroup folders for `controller`, innermost first: a limit of any of them binds. In
// a container the path of /proc may lie outside what is mounted; the mount's root then stands for
// it.
std::vector<std::string> CgroupFolders(const std::string& root, absl::string_view controller) {
  std::string mount = absl::StrCat(root, "/sys/fs/cgroup");
  std::string path = "/";
  for (const absl::string_view line : absl::StrSplit(Text(root + "/proc/self/cgroup"), '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<absl::string_view> names = absl::StrSplit(parts[1], ',');
    if (std::find(names.begin(), names.end(), controller) != names.end()) {
      absl::StrAppend(&mount, "/", controller);  // Version 1 has one tree a controller.
      path = std::string(parts[2]);
      break;
    }
    if (parts[0] == "0" && parts[1].empty()) path = std::string(parts[2]);
  }
  std::vector<std::string> folders;
  while (path.size() > 1) {
    folders.push_back(mount + path);
    path.resize(std::max<size_t>(path.rfind('/'), 0));
  }
  folders.push_back(mount);
  return folders;
}

}  // namespace

int ProcessorsOfCgroup(const std::string& root, int otherwise) {
  double processors = otherwise;
  for (const std::string& folder : CgroupFolders(root, "cpu")) {
    const std::vector<std::string> max = absl::StrSplit(Text(folder + "/cpu.max"), ' ');
    const bool version2 = max.size() == 2;
    const int64_t quota =
        Number(version2 ? max[0] : Text(folder + "/cpu.cfs_quota_us")).value_or(0);
    const int64_t period =
        Number(version2 ? max[1] : Text(folder + "/cpu.cfs_period_us")).value_or(0);
    if (quota <= 0 || period <= 0) continue;
    processors = std::min(processors, static_cast<double>(quota) / static_cast<double>(period));
  }
  return std::max(1, static_cast<int>(std::ceil(processors)));
}

int64_t AvailableBytesOfCgroup(const std::string& root, int64_t otherwise) {
  struct Files {
    const char* limit;
    const char* used;
    const char* reclaimable;  // In memory.stat: file pages that go when memory is short.
  };
  constexpr Files kVersions[] = {
      {"/memory.max", "/memory.current", "inactive_file "},
      {"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file "}};
  int64_t available = otherwise;
  for (const std::string& folder : CgroupFolders(root, "memory")) {
    for (const Files& files : kVersions) {
      const std::optional<int64_t> limit = Number(Text(folder + files.limit));
      const std::optional<int64_t> used = Number(Text(folder + files.used));
      if (!limit.has_value() || !used.has_value()) continue;
      int64_t reclaimable = 0;
      for (absl::string_view line : absl::StrSplit(Text(folder + "/memory.stat"), '\n')) {
        if (absl::ConsumePrefix(&line, files.reclaimable)) reclaimable = Number(line).value_or(0);
      }
      available = std::min(available, std::max<int64_t>(0, *limit - *used + reclaimable));
    }
  }
  return available;
}

int AvailableProcessors() {
  int processors = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) processors = CPU_COUNT(&mask);
  return ProcessorsOfCgroup("", std::max(1, processors));
}

HostMemory ReadHostMemory() {
  const std::string status = Text("/proc/self/status");
  const int64_t machine = KibField(Text("/proc/meminfo"), "MemAvailable");
  return {.resident_bytes = KibField(status, "VmRSS"),
          .resident_peak_bytes = KibField(status, "VmHWM"),
          .available_bytes = AvailableBytesOfCgroup("", machine)};
}

void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

void ResetHostPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

DeviceInfo HostDevice() {
  DeviceInfo info{.type = "cpu",
                  .name = "CPU",
                  .memory_bytes = 0,
                  .compute_capability = "",
                  .driver_version = ""};
  for (const absl::string_view line : absl::StrSplit(Text("/proc/cpuinfo"), '\n')) {
    if (!absl::StartsWith(line, "model name")) continue;
    info.name = std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
    break;
  }
  info.memory_bytes = KibField(Text("/proc/meminfo"), "MemTotal");
  return info;
}

}  // namespace quantd::engine
