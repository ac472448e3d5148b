// From the end of the file to the directory to the entries; every offset is checked where it is
// read.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/checkpoint/zip.h"

namespace quantd::engine {
namespace {

constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kEnd64Locator = 0x07064b50;
constexpr uint32_t kDirectoryEntry = 0x02014b50;
constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64LocatorBytes = 20;
constexpr size_t kEnd64Bytes = 56;
constexpr size_t kDirectoryEntryBytes = 46;
constexpr size_t kLocalHeaderBytes = 30;
constexpr size_t kCommentBytesMax = 65535;
constexpr uint64_t kEntriesMax = 1'000'000;
constexpr uint16_t kZip64Field = 1;

class Bytes {
 public:
  explicit Bytes(absl::Span<const uint8_t> file) : file_(file) {}
  uint64_t size() const { return file_.size(); }

  bool Has(uint64_t offset, uint64_t count) const {
    return offset <= file_.size() && count <= file_.size() - offset;
  }
  // Little-endian; the caller has checked with Has.
  uint64_t Number(uint64_t offset, int bytes) const {
    uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(file_[offset + i]) << (8 * i);
    return value;
  }
  absl::Span<const uint8_t> Part(uint64_t offset, uint64_t count) const {
    return file_.subspan(offset, count);
  }
  absl::string_view Text(uint64_t offset, uint64_t count) const {
    return {reinterpret_cast<const char*>(file_.data()) + offset, count};
  }

 private:
  absl::Span<const uint8_t> file_;
};

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("its ZIP ", what));
}

struct Directory {
  uint64_t offset = 0;
  uint64_t entries = 0;
};

absl::StatusOr<Directory> FindDirectory64(const Bytes& file, uint64_t end) {
  if (end < kEnd64LocatorBytes) return Damaged("lacks its 64-bit end");
  const uint64_t locator = end - kEnd64LocatorBytes;
  if (file.Number(locator, 4) != kEnd64Locator) return Damaged("lacks its 64-bit end");
  const uint64_t end64 = file.Number(locator + 8, 8);
  if (!file.Has(end64, kEnd64Bytes) || file.Number(end64, 4) != kEnd64) {
    return Damaged("has a 64-bit end outside the file");
  }
  return Directory{.offset = file.Number(end64 + 48, 8), .entries = file.Number(end64 + 32, 8)};
}

absl::StatusOr<Directory> FindDirectory(const Bytes& file) {
  if (file.size() < kEndBytes) return Damaged("is too short");
  const uint64_t last = file.size() - kEndBytes;
  const uint64_t first = last - std::min<uint64_t>(last, kCommentBytesMax);
  for (uint64_t end = last + 1; end-- > first;) {
    if (file.Number(end, 4) != kEnd) continue;
    const Directory directory = {.offset = file.Number(end + 16, 4),
                                 .entries = file.Number(end + 10, 2)};
    if (directory.offset == 0xffffffff || directory.entries == 0xffff) {
      return FindDirectory64(file, end);
    }
    return directory;
  }
  return Damaged("has no end: the file is cut off, or no archive");
}

struct Place {
  uint64_t size = 0;
  uint64_t header = 0;
};

// Sizes that do not fit 32 bits are in the extra field, in this order, those that are needed.
absl::Status ReadZip64(const Bytes& file, uint64_t extra, uint64_t extra_bytes,
                       uint64_t packed_size, Place& place) {
  const uint64_t end = extra + extra_bytes;
  while (extra + 4 <= end) {
    const uint64_t id = file.Number(extra, 2);
    const uint64_t bytes = file.Number(extra + 2, 2);
    extra += 4;
    if (bytes > end - extra) break;
    if (id == kZip64Field) {
      uint64_t at = extra;
      for (uint64_t* value : {&place.size, &packed_size, &place.header}) {
        if (*value != 0xffffffff) continue;
        if (at + 8 > extra + bytes) return Damaged("has a short 64-bit field");
        *value = file.Number(at, 8);
        at += 8;
      }
      return absl::OkStatus();
    }
    extra += bytes;
  }
  return Damaged("lacks a 64-bit field");
}

absl::StatusOr<ZipEntry> ReadEntry(const Bytes& file, uint64_t& at) {
  if (!file.Has(at, kDirectoryEntryBytes) || file.Number(at, 4) != kDirectoryEntry) {
    return Damaged("has a directory that is cut off");
  }
  const uint64_t flags = file.Number(at + 8, 2);
  const uint64_t method = file.Number(at + 10, 2);
  const uint64_t packed_size = file.Number(at + 20, 4);
  const uint64_t name_bytes = file.Number(at + 28, 2);
  const uint64_t extra_bytes = file.Number(at + 30, 2);
  const uint64_t comment_bytes = file.Number(at + 32, 2);
  Place place = {.size = file.Number(at + 24, 4), .header = file.Number(at + 42, 4)};
  const uint64_t name_at = at + kDirectoryEntryBytes;
  if (!file.Has(name_at, name_bytes + extra_bytes + comment_bytes)) {
    return Damaged("has a directory that is cut off");
  }
  at = name_at + name_bytes + extra_bytes + comment_bytes;
  ZipEntry entry = {.name = std::string(file.Text(name_at, name_bytes)), .bytes = {}};
  if ((flags & 1) != 0) return Damaged(absl::StrCat("entry ", Quoted(entry.name), " is encrypted"));
  if (method != 0) {
    return Damaged(absl::StrCat("entry ", Quoted(entry.name),
                                " is compressed; torch.save stores its entries as they are"));
  }
  if (place.size == 0xffffffff || place.header == 0xffffffff) {
    QD_RETURN_IF_ERROR(ReadZip64(file, name_at + name_bytes, extra_bytes, packed_size, place));
  } else if (packed_size != place.size) {
    return Damaged(absl::StrCat("entry ", Quoted(entry.name), " has two sizes"));
  }
  if (!file.Has(place.header, kLocalHeaderBytes) || file.Number(place.header, 4) != kLocalHeader) {
    return Damaged(absl::StrCat("entry ", Quoted(entry.name), " lies outside the file"));
  }
  const uint64_t data = place.header + kLocalHeaderBytes + file.Number(place.header + 26, 2) +
                        file.Number(place.header + 28, 2);
  if (!file.Has(data, place.size)) {
    return Damaged(absl::StrCat("entry ", Quoted(entry.name), " lies outside the file"));
  }
  entry.bytes = file.Part(data, place.size);
  return entry;
}

}  // namespace

absl::StatusOr<std::vector<ZipEntry>> ReadZipDirectory(absl::Span<const uint8_t> file) {
  const Bytes bytes(file);
  QD_ASSIGN_OR_RETURN(const Directory directory, FindDirectory(bytes));
  if (directory.entries > kEntriesMax) {
    return Damaged(absl::StrCat("claims ", directory.entries, " entries"));
  }
  std::vector<ZipEntry> entries;
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    QD_ASSIGN_OR_RETURN(ZipEntry entry, ReadEntry(bytes, at));
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace quantd::engine
