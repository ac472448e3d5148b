// A file in memory, read-only: nothing of it is read before it is touched, and pages can be let go
// again, so that a model larger than memory streams through.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quantd::engine {

// Movable; thread-safe. A file that another process shortens after Open faults (SIGBUS) when read:
// the engine runs as a child process, so that this ends one job.
class MappedFile {
 public:
  // DataLoss for what is no regular file (it does not wait for a FIFO's other end); NotFound,
  // PermissionDenied and so on as the system says.
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::string& path() const { return path_; }
  absl::Span<const uint8_t> bytes() const { return bytes_; }
  // Drops the pages under `bytes`, a part of a mapped file, from this process (they stay in the
  // page cache as long as the system likes). Reading them again is correct.
  static void ReleasePages(absl::Span<const uint8_t> bytes);

 private:
  std::string path_;
  absl::Span<const uint8_t> bytes_;
};

}  // namespace quantd::engine
