// What the machine looked like: memory, load, disk, and what the engine used of it. Read from /proc
// and the cgroup; a value that cannot be read is -1, because a report with a gap beats none.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace quantd {

struct MachineState {
  int64_t memory_total_bytes = -1;
  int64_t memory_available_bytes = -1;
  // Processes that the kernel has killed for want of memory, ever: in this cgroup and on the
  // machine.
  int64_t oom_kills = -1;
  int64_t disk_free_bytes = -1;
  std::string load;  // The three averages of /proc/loadavg.

  // `folder`: whose file system is asked for free space.
  static MachineState Read(const std::string& folder);
};

struct ProcessMemory {
  int64_t resident_bytes = -1;
  int64_t resident_peak_bytes = -1;
};

ProcessMemory ReadProcessMemory(pid_t pid);

}  // namespace quantd
