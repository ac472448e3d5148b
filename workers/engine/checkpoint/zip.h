// ZIP archives of stored (not compressed) entries, as torch.save makes them: the directory of one,
// checked before anything in it is used, and a writer that streams. Sizes beyond 4 GB by ZIP64.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantd::engine {

struct ZipEntry {
  std::string name;
  absl::Span<const uint8_t> bytes;  // Within the archive.
};

// The entries of the archive `file`, in the order of its directory. DataLoss for anything that is
// damaged, compressed, encrypted, cut into several files, or outside the file. Checksums are not
// verified: the bytes are weights, checked by nobody else either.
absl::StatusOr<std::vector<ZipEntry>> ReadZipDirectory(absl::Span<const uint8_t> file);

// Entries lie one after the other, each entry's bytes at a multiple of 64. Until Finish the file
// has a temporary name; the destructor removes it. Not thread-safe.
class ZipWriter {
 public:
  static absl::StatusOr<std::unique_ptr<ZipWriter>> Create(const std::string& path);
  ~ZipWriter();
  ZipWriter(const ZipWriter&) = delete;
  ZipWriter& operator=(const ZipWriter&) = delete;

  // ResourceExhausted when the disk is full.
  absl::Status Add(absl::string_view name, absl::Span<const uint8_t> bytes);
  // Afterwards the file is durable under its final name.
  absl::Status Finish();

 private:
  struct Placed {
    std::string name;
    uint32_t checksum = 0;
    uint64_t size = 0;
    uint64_t offset = 0;  // Of the local header.
  };
  ZipWriter() = default;
  absl::Status Append(absl::string_view bytes);
  std::string path_;
  std::string temporary_path_;
  int fd_ = -1;
  uint64_t at_ = 0;
  std::vector<Placed> placed_;
};

}  // namespace quantd::engine
