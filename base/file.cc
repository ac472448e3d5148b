// POSIX calls with their errors turned into statuses.
#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace quantd {
namespace {

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  int Close() {
    const int fd = fd_;
    fd_ = -1;
    return close(fd);
  }

 private:
  int fd_;
};

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

absl::Status WriteAll(int fd, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t wrote = write(fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoStatus(errno, "writing ", path);
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ErrnoStatusText(int error, absl::string_view words) {
  const std::string text = absl::StrCat(words, ": ", std::generic_category().message(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(text);
    case EEXIST:
      return absl::AlreadyExistsError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EFBIG:
      return absl::ResourceExhaustedError(text);
    case EAGAIN:
    case EBUSY:
    case ECONNREFUSED:
      return absl::UnavailableError(text);
    case EINVAL:
    case EISDIR:
    case ENAMETOOLONG:
    case ELOOP:
      return absl::InvalidArgumentError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t limit_bytes) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return ErrnoStatus(errno, "opening ", path);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "reading ", path);
  if (S_ISDIR(info.st_mode)) return ErrnoStatus(EISDIR, "reading ", path);
  const auto too_large = [&] {
    return absl::ResourceExhaustedError(
        absl::StrCat("reading ", path, ": larger than the limit of ", FormatBytes(limit_bytes)));
  };
  // A file says how large it is; a device or a pipe does not.
  if (info.st_size > limit_bytes) return too_large();
  std::string bytes;
  bytes.reserve(static_cast<size_t>(info.st_size));
  char buffer[65536];
  for (;;) {
    const ssize_t got = read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "reading ", path);
    if (got == 0) return bytes;
    bytes.append(buffer, static_cast<size_t>(got));
    if (static_cast<int64_t>(bytes.size()) > limit_bytes) return too_large();
  }
}

absl::Status WriteFileAtomic(const std::string& path, absl::string_view bytes) {
  static std::atomic<uint64_t> counter{0};
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".", counter++, ".partial");
  Fd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (fd.get() < 0) return ErrnoStatus(errno, "creating ", temporary);
  FaultPoint("file/created");
  absl::Status status = WriteAll(fd.get(), bytes, temporary);
  FaultPoint("file/written");
  if (status.ok() && fsync(fd.get()) != 0) status = ErrnoStatus(errno, "syncing ", temporary);
  if (fd.Close() != 0 && status.ok()) status = ErrnoStatus(errno, "closing ", temporary);
  FaultPoint("file/synced");
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus(errno, "renaming ", temporary, " to ", path);
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  FaultPoint("file/renamed");
  return SyncFolder(FolderOf(path));
}

absl::Status SyncFolder(const std::string& folder) {
  const Fd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return ErrnoStatus(errno, "opening ", folder);
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, "syncing ", folder);
  return absl::OkStatus();
}

absl::Status MakeFolders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return ErrnoStatus(error.value(), "creating folder ", path);
  return absl::OkStatus();
}

absl::Status RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return ErrnoStatus(error.value(), "removing ", path);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FileSize(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "reading ", path);
  return static_cast<int64_t>(info.st_size);
}

bool FileExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

absl::StatusOr<int64_t> FreeDiskBytes(const std::string& path) {
  struct statvfs info {};
  if (statvfs(path.c_str(), &info) != 0) return ErrnoStatus(errno, "reading ", path);
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

absl::Status CheckRelativePath(absl::string_view name) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("path \"", name.substr(0, 200), "\": ", why));
  };
  if (name.empty()) return refuse("is empty");
  if (name.size() > 1024) return refuse("is longer than 1,024 bytes");
  if (!IsValidUtf8(name)) return refuse("is not valid UTF-8");
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return refuse("holds a control character");
    if (c == '\\') return refuse("holds a backslash");
  }
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    if (part.empty()) return refuse("holds an empty component (leading, trailing or doubled '/')");
    if (part == "." || part == "..") return refuse("leaves its folder (\".\" or \"..\")");
    if (part.size() > 255) return refuse("has a component longer than 255 bytes");
  }
  return absl::OkStatus();
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  int unit = -1;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  const int digits = value < 10 ? 2 : value < 100 ? 1 : 0;
  return absl::StrFormat("%.*f %s", digits, value, kUnits[unit]);
}

}  // namespace quantd
