// How wrong a program's wall clock is, in a file that a test and the library in the program
// (faults.cc) both map: what a test writes holds at once.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace quantd::e2e {

struct WallClock {
  std::atomic<int64_t> wrong_ns;
  // Runs too fast by so much of a billion, since then (monotonic).
  std::atomic<int64_t> slew_ppb;
  std::atomic<int64_t> slew_since_ns;

  int64_t Wrong(int64_t monotonic_ns) const {
    const double slewed =
        static_cast<double>(monotonic_ns - slew_since_ns) * static_cast<double>(slew_ppb) * 1e-9;
    return wrong_ns + static_cast<int64_t>(slewed);
  }
};

// Makes the file if it is not there; null when there can be none. Never unmapped.
inline WallClock* MapWallClock(const char* path) {
  const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return nullptr;
  void* map = MAP_FAILED;
  if (ftruncate(fd, sizeof(WallClock)) == 0) {
    map = mmap(nullptr, sizeof(WallClock), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  close(fd);
  return map == MAP_FAILED ? nullptr : static_cast<WallClock*>(map);
}

}  // namespace quantd::e2e
