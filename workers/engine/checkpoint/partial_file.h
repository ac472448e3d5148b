// A large file in the making: space taken at once, written in any order under a temporary name, and
// there under its own name only when it is whole and durable.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace quantd::engine {

// Movable; not thread-safe. Destroyed before Finish it leaves nothing behind.
class PartialFile {
 public:
  // Beside `path`. ResourceExhausted when the disk has no room for `size_bytes`.
  static absl::StatusOr<PartialFile> Create(const std::string& path, int64_t size_bytes);
  PartialFile() = default;
  ~PartialFile();
  PartialFile(PartialFile&& other) noexcept;
  PartialFile& operator=(PartialFile&& other) noexcept;

  bool open() const { return fd_ >= 0; }
  absl::Status Write(absl::Span<const uint8_t> bytes, int64_t offset);
  absl::Status Finish();

 private:
  std::string path_;
  std::string temporary_path_;
  int fd_ = -1;
};

}  // namespace quantd::engine
