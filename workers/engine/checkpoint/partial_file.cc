// See partial_file.h.
#include "workers/engine/checkpoint/partial_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

// Takes the whole file's space now, so that a full disk is known before hours of work. File systems
// that cannot do it find out while writing.
absl::Status ReserveSpace(int fd, int64_t size_bytes, const std::string& path) {
  if (fallocate(fd, 0, 0, size_bytes) == 0) return absl::OkStatus();
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) {
    return ErrnoStatus(errno, "reserving ", FormatBytes(size_bytes), " for ", path);
  }
  if (ftruncate(fd, size_bytes) != 0) return ErrnoStatus(errno, "sizing ", path);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PartialFile> PartialFile::Create(const std::string& path, int64_t size_bytes) {
  static std::atomic<uint64_t> counter{0};
  PartialFile file;
  file.path_ = path;
  file.temporary_path_ = absl::StrCat(path, ".", getpid(), ".", counter++, ".partial");
  file.fd_ = ::open(file.temporary_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file.fd_ < 0) return ErrnoStatus(errno, "creating ", file.temporary_path_);
  QD_RETURN_IF_ERROR(ReserveSpace(file.fd_, size_bytes, path));
  return file;
}

PartialFile::~PartialFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_path_.c_str());
}

PartialFile::PartialFile(PartialFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_path_(std::move(other.temporary_path_)),
      fd_(std::exchange(other.fd_, -1)) {}

PartialFile& PartialFile::operator=(PartialFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_path_, other.temporary_path_);
  std::swap(fd_, other.fd_);
  return *this;
}

absl::Status PartialFile::Write(absl::Span<const uint8_t> bytes, int64_t offset) {
  while (!bytes.empty()) {
    const ssize_t wrote = pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoStatus(errno, "writing ", path_);
    bytes.remove_prefix(static_cast<size_t>(wrote));
    offset += wrote;
  }
  return absl::OkStatus();
}

absl::Status PartialFile::Finish() {
  if (fsync(fd_) != 0) return ErrnoStatus(errno, "syncing ", temporary_path_);
  FaultPoint("engine/file/synced");
  const int fd = std::exchange(fd_, -1);
  absl::Status status;
  if (close(fd) != 0) status = ErrnoStatus(errno, "closing ", temporary_path_);
  if (status.ok() && rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    status = ErrnoStatus(errno, "renaming ", temporary_path_, " to ", path_);
  }
  if (!status.ok()) {
    unlink(temporary_path_.c_str());
    return status;
  }
  FaultPoint("engine/file/renamed");
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  return SyncFolder(folder.empty() ? "." : folder);
}

}  // namespace quantd::engine
