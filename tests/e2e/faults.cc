// Preloaded into a program, it stands behind the program's fault points (base/fault_point.h) and
// between it and its disk: the program dies at a named point or at its k-th call that changes a
// file, or that call fails, or the power goes, and with it whatever was not synced. Only regular
// files below one folder count, and only calls of one program, for children inherit the library.
//
//   QUANTD_FAULT_PROGRAM  the program's name ("quantd"); others are left alone
//   QUANTD_FAULT_FOLDER   the folder. While FOLDER.full exists, writes fail as on a full disk
//   QUANTD_FAULT_POINT    NAME:N: abort() at the N-th passing
//   QUANTD_FAULT_CALL     N:HOW: at the N-th call that changes a file. HOW is "EIO" or "ENOSPC" (it
//                         fails once), "short" (a write takes half), "kill" (SIGKILL before it) or
//                         "cut" (the power goes: what was not synced is lost, in part or whole)
//   QUANTD_FAULT_LIES     set: no sync reaches the disk, though it says so
//   QUANTD_FAULT_CLOCK    a file that says how wrong the wall clock is (wall_clock.h); read at
//   every
//                         look at the clock
//
// FOLDER.fired is written when the fault has come; where it is already, none comes. What a cut does
// not model: removals, which count as synced, and the index of SQLite's log (-shm), which no
// recovery reads.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "tests/e2e/wall_clock.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// The C library's function of that name.
template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

enum class How { kNone, kEio, kEnospc, kShort, kKill, kCut };

std::string Variable(const char* name) {
  const char* text = getenv(name);
  return text == nullptr ? "" : text;
}

struct Plan {
  std::string folder;
  std::string point;
  long passing = 0;
  long call = 0;
  How how = How::kNone;
  bool lies = false;

  Plan() {
    const std::string program = Variable("QUANTD_FAULT_PROGRAM");
    if (!program.empty() && program != program_invocation_short_name) return;
    folder = Variable("QUANTD_FAULT_FOLDER");
    lies = !Variable("QUANTD_FAULT_LIES").empty();
    const std::string at_point = Variable("QUANTD_FAULT_POINT");
    point = at_point.substr(0, at_point.find(':'));
    passing = atol(at_point.substr(point.size() + (at_point.size() > point.size())).c_str());
    const std::string at_call = Variable("QUANTD_FAULT_CALL");
    call = atol(at_call.c_str());
    const std::string word = at_call.substr(at_call.find(':') + 1);
    how = word == "EIO"      ? How::kEio
          : word == "ENOSPC" ? How::kEnospc
          : word == "short"  ? How::kShort
          : word == "kill"   ? How::kKill
          : word == "cut"    ? How::kCut
                             : How::kNone;
  }
};

// Never destroyed: threads write on while the program ends.
const Plan& ThePlan() {
  static const Plan* plan = new Plan();
  return *plan;
}

bool IsBelow(const std::string& path) {
  const std::string& folder = ThePlan().folder;
  if (folder.empty() || path.size() <= folder.size() || path[folder.size()] != '/' ||
      path.compare(0, folder.size(), folder) != 0) {
    return false;
  }
  return path.size() < 4 || path.compare(path.size() - 4, 4, "-shm") != 0;
}

// The path of a file below the folder that is open; empty for anything else.
std::string PathOf(int fd) {
  if (ThePlan().folder.empty()) return "";
  struct stat info;
  if (fstat(fd, &info) != 0 || !(S_ISREG(info.st_mode) || S_ISDIR(info.st_mode))) return "";
  char link[64], text[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, text, sizeof text);
  if (size <= 0) return "";
  const std::string path(text, static_cast<size_t>(size));
  return IsBelow(path) || (S_ISDIR(info.st_mode) && path == ThePlan().folder) ? path : "";
}

std::string FolderOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

bool Full() { return access((ThePlan().folder + ".full").c_str(), F_OK) == 0; }

// Whether the fault comes now: it does once.
bool Fires(const std::string& what) {
  static auto* write_file = Next<ssize_t(int, const void*, size_t)>("write");
  static auto* open_file = Next<int(const char*, int, ...)>("open64");
  const int fd =
      open_file((ThePlan().folder + ".fired").c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644);
  if (fd < 0) return false;
  if (write_file(fd, what.data(), what.size()) < 0) _exit(9);
  close(fd);
  return true;
}

// --- What the disk has not got yet.

struct Change {
  enum Kind { kData, kSize, kCreated, kRenamed } kind;
  std::string path;           // kRenamed: the new name.
  off_t at = 0;               // kSize: the new size.
  off_t old_size = 0;         // Of the file before.
  std::string before, after;  // Bytes; kRenamed: the old name, and where the replaced file is kept.
};

std::recursive_mutex& Disk() {
  static auto* mutex = new std::recursive_mutex();
  return *mutex;
}
std::vector<Change>& Unsynced() {
  static auto* changes = new std::vector<Change>();
  return *changes;
}

ssize_t RawWrite(int fd, const void* data, size_t size, off_t at) {
  static auto* next = Next<ssize_t(int, const void*, size_t, off_t)>("pwrite64");
  return next(fd, data, size, at);
}
int RawOpen(const std::string& path, int flags) {
  static auto* next = Next<int(const char*, int, ...)>("open64");
  return next(path.c_str(), flags, 0644);
}
int RawTruncate(int fd, off_t size) {
  static auto* next = Next<int(int, off_t)>("ftruncate64");
  return next(fd, size);
}
int RawRename(const std::string& from, const std::string& to) {
  static auto* next = Next<int(const char*, const char*)>("rename");
  return next(from.c_str(), to.c_str());
}

bool Tracks() { return ThePlan().how == How::kCut; }

void NoteWrite(int fd, const std::string& path, const void* data, size_t size, off_t at) {
  struct stat info;
  fstat(fd, &info);
  Change change{Change::kData, path, at, info.st_size, std::string(size, '\0'), {}};
  const int readable = RawOpen(path, O_RDONLY | O_CLOEXEC);
  const ssize_t got = pread(readable, change.before.data(), size, at);
  close(readable);
  change.before.resize(got > 0 ? static_cast<size_t>(got) : 0);
  change.after.assign(static_cast<const char*>(data), size);
  Unsynced().push_back(std::move(change));
}

// What was written under one name has another now.
void Follow(const std::string& from, const std::string& to) {
  for (Change& change : Unsynced()) {
    if (change.kind != Change::kRenamed && change.path == from) change.path = to;
  }
}

void Undo(const Change& change) {
  if (change.kind == Change::kRenamed) {
    RawRename(change.path, change.before);
    Follow(change.path, change.before);
    if (!change.after.empty()) {
      RawRename(change.after, change.path);
      Follow(change.after, change.path);
    }
  } else if (change.kind == Change::kCreated) {
    unlink(change.path.c_str());
  } else {
    const int fd = RawOpen(change.path, O_WRONLY | O_CLOEXEC);
    RawWrite(fd, change.before.data(), change.before.size(), change.at);
    RawTruncate(fd, change.old_size);
    close(fd);
  }
}

// Bytes that came to the disk although nobody had asked for it.
void Redo(const Change& change) {
  const int fd = RawOpen(change.path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (change.kind == Change::kData) {
    RawWrite(fd, change.after.data(), change.after.size(), change.at);
  } else {
    RawTruncate(fd, change.at);
  }
  close(fd);
}

[[noreturn]] void Cut() {
  std::vector<Change>& changes = Unsynced();
  for (auto change = changes.rbegin(); change != changes.rend(); ++change) Undo(*change);
  uint64_t random = static_cast<uint64_t>(ThePlan().call) * 0x9e3779b97f4a7c15;
  for (const Change& change : changes) {
    random = random * 6364136223846793005 + 1442695040888963407;
    const bool bytes = change.kind == Change::kData || change.kind == Change::kSize;
    if (bytes && ThePlan().call % 2 == 1 && (random >> 40) % 2 == 1) Redo(change);
  }
  kill(getpid(), SIGKILL);
  while (true) pause();
}

// A sync of a file makes its bytes safe, one of a folder the names in it.
void Synced(const std::string& path) {
  std::vector<Change>& changes = Unsynced();
  for (size_t i = 0; i < changes.size();) {
    const bool name = changes[i].kind == Change::kCreated || changes[i].kind == Change::kRenamed;
    const bool safe = name ? FolderOf(changes[i].path) == path : changes[i].path == path;
    if (safe && changes[i].kind == Change::kRenamed && !changes[i].after.empty()) {
      unlink(changes[i].after.c_str());
    }
    if (safe) {
      changes.erase(changes.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
}

// --- The k-th call.

// What is to become of this call; dies here if that is its end.
How Count(const char* name, const std::string& path) {
  static std::atomic<long> calls{0};
  const Plan& plan = ThePlan();
  if (plan.call == 0 || ++calls != plan.call) return How::kNone;
  const size_t above = FolderOf(plan.folder).size() + 1;
  if (!Fires(std::string(name) + " " + path.substr(above < path.size() ? above : 0))) {
    return How::kNone;
  }
  if (plan.how == How::kKill) {
    kill(getpid(), SIGKILL);
    while (true) pause();
  }
  if (plan.how == How::kCut) Cut();
  return plan.how;
}

int Failed(How how) {
  errno = how == How::kEnospc ? ENOSPC : EIO;
  return -1;
}

bool Fails(How how) { return how == How::kEio || how == How::kEnospc; }

// `at` < 0: at the file's own offset.
template <typename Call>
ssize_t Write(const char* name, int fd, const void* data, size_t size, off_t at, Call call) {
  const std::string path = PathOf(fd);
  if (path.empty()) return call(size);
  if (Full()) return Failed(How::kEnospc);
  const std::lock_guard<std::recursive_mutex> lock(Disk());
  const How how = Count(name, path);
  if (Fails(how)) return Failed(how);
  if (how == How::kShort && size > 1) size /= 2;
  if (Tracks()) NoteWrite(fd, path, data, size, at < 0 ? lseek(fd, 0, SEEK_CUR) : at);
  return call(size);
}

template <typename Call>
int Truncate(const char* name, int fd, off_t size, Call call) {
  const std::string path = PathOf(fd);
  if (path.empty()) return call();
  const std::lock_guard<std::recursive_mutex> lock(Disk());
  const How how = Count(name, path);
  if (Fails(how)) return Failed(how);
  struct stat info;
  fstat(fd, &info);
  if (Tracks() && size < info.st_size) {
    // What is cut off comes back with the old size.
    std::string rest(static_cast<size_t>(info.st_size - size), '\0');
    const int readable = RawOpen(path, O_RDONLY | O_CLOEXEC);
    const ssize_t got = pread(readable, rest.data(), rest.size(), size);
    close(readable);
    rest.resize(got > 0 ? static_cast<size_t>(got) : 0);
    Unsynced().push_back({Change::kSize, path, size, info.st_size, std::move(rest), {}});
  } else if (Tracks()) {
    Unsynced().push_back({Change::kSize, path, size, info.st_size, {}, {}});
  }
  return call();
}

template <typename Call>
int Sync(const char* name, int fd, Call call) {
  const std::string path = PathOf(fd);
  if (path.empty()) return call();
  const std::lock_guard<std::recursive_mutex> lock(Disk());
  const How how = Count(name, path);
  if (Fails(how)) return Failed(how);
  if (ThePlan().lies) return 0;
  if (!Tracks()) return call();
  Synced(path);
  return 0;
}

template <typename Call>
int Open(const char* name, const char* path, int flags, Call call) {
  if ((flags & O_CREAT) == 0 || !IsBelow(path)) return call();
  const std::lock_guard<std::recursive_mutex> lock(Disk());
  const How how = Count(name, path);
  if (Fails(how)) return Failed(how);
  const bool fresh = access(path, F_OK) != 0;
  const int fd = call();
  if (fd >= 0 && fresh && Tracks()) {
    Unsynced().push_back({Change::kCreated, path, 0, 0, {}, {}});
  }
  return fd;
}

// --- The wall clock.

// Null: it is right.
const quantd::e2e::WallClock* TheClock() {
  static const quantd::e2e::WallClock* clock = [] {
    const std::string program = Variable("QUANTD_FAULT_PROGRAM");
    const bool others = !program.empty() && program != program_invocation_short_name;
    return others ? nullptr : quantd::e2e::MapWallClock(Variable("QUANTD_FAULT_CLOCK").c_str());
  }();
  return clock;
}

int RawTime(clockid_t id, timespec* time) {
  static auto* next = Next<int(clockid_t, timespec*)>("clock_gettime");
  return next(id, time);
}

// What the wall clock shows.
timespec Wall() {
  timespec wall = {}, monotonic = {};
  RawTime(CLOCK_REALTIME, &wall);
  RawTime(CLOCK_MONOTONIC, &monotonic);
  constexpr int64_t kSecond = 1'000'000'000;
  const int64_t shown = wall.tv_sec * kSecond + wall.tv_nsec +
                        TheClock()->Wrong(monotonic.tv_sec * kSecond + monotonic.tv_nsec);
  return {shown / kSecond, shown % kSecond};
}

}  // namespace

EXPORT int clock_gettime(clockid_t id, timespec* time) {
  if ((id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE) || TheClock() == nullptr) {
    return RawTime(id, time);
  }
  *time = Wall();
  return 0;
}
EXPORT int gettimeofday(timeval* time, void* zone) {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  *time = {now.tv_sec, now.tv_nsec / 1000};
  return 0;
}
EXPORT time_t time(time_t* out) {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

EXPORT void quantd_fault_point(const char* name) {
  static std::atomic<long> passed{0};
  const Plan& plan = ThePlan();
  if (plan.point != name || ++passed != plan.passing) return;
  if (!Fires(name)) return;
  prctl(PR_SET_DUMPABLE, 0);  // Nobody wants hundreds of cores.
  abort();
}

EXPORT ssize_t write(int fd, const void* data, size_t size) {
  static auto* next = Next<ssize_t(int, const void*, size_t)>("write");
  return Write("write", fd, data, size, -1, [&](size_t n) { return next(fd, data, n); });
}
EXPORT ssize_t pwrite(int fd, const void* data, size_t size, off_t at) {
  return Write("pwrite", fd, data, size, at, [&](size_t n) { return RawWrite(fd, data, n, at); });
}
EXPORT ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
  return pwrite(fd, data, size, at);
}
EXPORT ssize_t writev(int fd, const iovec* parts, int count) {
  static auto* next = Next<ssize_t(int, const iovec*, int)>("writev");
  if (PathOf(fd).empty()) return next(fd, parts, count);
  for (int i = 0; i < count; ++i) {  // A first part that is short is a short write.
    if (parts[i].iov_len > 0) return write(fd, parts[i].iov_base, parts[i].iov_len);
  }
  return 0;
}
EXPORT int fallocate(int fd, int mode, off_t at, off_t size) {
  static auto* next = Next<int(int, int, off_t, off_t)>("fallocate");
  return !PathOf(fd).empty() && Full() ? Failed(How::kEnospc) : next(fd, mode, at, size);
}
EXPORT int posix_fallocate(int fd, off_t at, off_t size) {
  static auto* next = Next<int(int, off_t, off_t)>("posix_fallocate");
  return !PathOf(fd).empty() && Full() ? ENOSPC : next(fd, at, size);
}
EXPORT int ftruncate(int fd, off_t size) {
  return Truncate("ftruncate", fd, size, [&] { return RawTruncate(fd, size); });
}
EXPORT int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }
EXPORT int fsync(int fd) {
  static auto* next = Next<int(int)>("fsync");
  return Sync("fsync", fd, [&] { return next(fd); });
}
EXPORT int fdatasync(int fd) {
  static auto* next = Next<int(int)>("fdatasync");
  return Sync("fdatasync", fd, [&] { return next(fd); });
}
EXPORT int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  static auto* next = Next<int(const char*, int, ...)>("open64");
  return Open("open", path, flags, [&] { return next(path, flags, mode); });
}
EXPORT int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return open(path, flags, mode);
}
EXPORT int rename(const char* from, const char* to) {
  if (!IsBelow(to)) return RawRename(from, to);
  const std::lock_guard<std::recursive_mutex> lock(Disk());
  const How how = Count("rename", to);
  if (Fails(how)) return Failed(how);
  std::string kept;
  if (Tracks() && access(to, F_OK) == 0) {
    kept = std::string(to) + ".replaced";
    unlink(kept.c_str());
    if (link(to, kept.c_str()) != 0) kept.clear();
    Follow(to, kept);
  }
  const int result = RawRename(from, to);
  if (result != 0 || !Tracks()) return result;
  Follow(from, to);
  Unsynced().push_back({Change::kRenamed, to, 0, 0, from, kept});
  return 0;
}
