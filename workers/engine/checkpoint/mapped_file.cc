// See mapped_file.h.
#include "workers/engine/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace quantd::engine {

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // Without O_NONBLOCK a FIFO of that name would hang the process here.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, "opening ", path);
  struct stat info {};
  absl::Status status;
  void* data = nullptr;
  if (fstat(fd, &info) != 0) {
    status = ErrnoStatus(errno, "reading ", path);
  } else if (!S_ISREG(info.st_mode)) {
    status = absl::DataLossError(absl::StrCat(path, ": is not a regular file"));
  } else if (info.st_size > 0) {
    data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) status = ErrnoStatus(errno, "mapping ", path);
  }
  close(fd);
  if (!status.ok()) return status;
  MappedFile file;
  file.path_ = path;
  file.bytes_ =
      absl::MakeConstSpan(static_cast<const uint8_t*>(data), static_cast<size_t>(info.st_size));
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void MappedFile::ReleasePages(absl::Span<const uint8_t> bytes) {
  if (bytes.empty()) return;
  static const uintptr_t page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  // Outwards to whole pages: a neighbour that shares one reads it again from the page cache.
  const uintptr_t begin = reinterpret_cast<uintptr_t>(bytes.data()) / page_bytes * page_bytes;
  const uintptr_t end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size());
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace quantd::engine
