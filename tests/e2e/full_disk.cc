// Preloaded into a process, it makes one folder behave like a full disk: while the file
// $QUANTD_FULL_FOLDER.full exists, every write to a regular file below the folder fails with
// ENOSPC.
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

bool Full(int fd) {
  const char* folder = getenv("QUANTD_FULL_FOLDER");
  if (folder == nullptr) return false;
  char text[4096];
  snprintf(text, sizeof text, "%s.full", folder);
  if (access(text, F_OK) != 0) return false;
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return false;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, text, sizeof text - 1);
  const size_t length = strlen(folder);
  return size > static_cast<ssize_t>(length) && strncmp(text, folder, length) == 0 &&
         text[length] == '/';
}

// The C library's function of that name.
template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

template <typename Function, typename... Arguments>
auto Try(Function* next, int fd, Arguments... arguments) -> decltype(next(fd, arguments...)) {
  if (!Full(fd)) return next(fd, arguments...);
  errno = ENOSPC;
  return -1;
}

}  // namespace

EXPORT ssize_t write(int fd, const void* data, size_t size) {
  static auto* next = Next<ssize_t(int, const void*, size_t)>("write");
  return Try(next, fd, data, size);
}
EXPORT ssize_t pwrite(int fd, const void* data, size_t size, off_t at) {
  static auto* next = Next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  return Try(next, fd, data, size, at);
}
EXPORT ssize_t pwrite64(int fd, const void* data, size_t size, off64_t at) {
  static auto* next = Next<ssize_t(int, const void*, size_t, off64_t)>("pwrite64");
  return Try(next, fd, data, size, at);
}
EXPORT ssize_t writev(int fd, const iovec* parts, int count) {
  static auto* next = Next<ssize_t(int, const iovec*, int)>("writev");
  return Try(next, fd, parts, count);
}
EXPORT int fallocate(int fd, int mode, off_t at, off_t size) {
  static auto* next = Next<int(int, int, off_t, off_t)>("fallocate");
  return Try(next, fd, mode, at, size);
}
EXPORT int posix_fallocate(int fd, off_t at, off_t size) {
  static auto* next = Next<int(int, off_t, off_t)>("posix_fallocate");
  return Full(fd) ? ENOSPC : next(fd, at, size);
}
