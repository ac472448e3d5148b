// Each entry is a local header with everything in it, so that nothing has to be gone back to; the
// directory comes last. 64-bit fields are written only where a number needs them.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/zip.h"

namespace quantd::engine {
namespace {

constexpr uint64_t kAlignmentBytes = 64;  // What torch.save aligns storages to.
constexpr uint64_t kLimit32 = 0xffffffff;
constexpr uint64_t kLimit16 = 0xffff;
constexpr uint64_t kLocalHeaderBytes = 30;
constexpr uint16_t kPaddingField = 0x4246;  // "FB", as torch names it.
constexpr uint16_t kDate = 0x21;            // 1 January 1980: the same model, the same bytes.

using Tables = std::array<std::array<uint32_t, 256>, 8>;

const Tables& ChecksumTables() {
  static const Tables tables = [] {
    Tables made{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0u);
      made[0][i] = value;
    }
    for (uint32_t i = 0; i < 256; ++i) {
      for (size_t t = 1; t < made.size(); ++t) {
        made[t][i] = made[t - 1][i] >> 8 ^ made[0][made[t - 1][i] & 0xff];
      }
    }
    return made;
  }();
  return tables;
}

// CRC-32, eight bytes at a time.
uint32_t Checksum(absl::Span<const uint8_t> bytes) {
  const Tables& tables = ChecksumTables();
  uint32_t value = 0xffffffff;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint32_t next = 0;
    for (int t = 0; t < 4; ++t) {
      next ^= tables[7 - t][(bytes[i + t] ^ (value >> (8 * t))) & 0xff];
      next ^= tables[3 - t][bytes[i + 4 + t]];
    }
    value = next;
  }
  for (; i < bytes.size(); ++i) value = value >> 8 ^ tables[0][(value ^ bytes[i]) & 0xff];
  return ~value;
}

void Little(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xff));
}

uint64_t Short(uint64_t value) { return value >= kLimit32 ? kLimit32 : value; }

// What a local header and a directory entry have in common: version to dates, checksum, sizes and
// the length of the name.
void CommonFields(std::string& out, uint32_t checksum, uint64_t size, size_t name_bytes,
                  bool wide) {
  Little(out, wide ? 45 : 20, 2);
  Little(out, 0, 2);  // Flags.
  Little(out, 0, 2);  // Stored.
  Little(out, 0, 2);
  Little(out, kDate, 2);
  Little(out, checksum, 4);
  Little(out, wide ? kLimit32 : size, 4);
  Little(out, wide ? kLimit32 : size, 4);
  Little(out, name_bytes, 2);
}

// `placed` is a ZipWriter's record of an entry.
template <typename Placed>
void AddDirectoryEntry(const Placed& placed, std::string& text) {
  const bool wide = placed.size >= kLimit32 || placed.offset >= kLimit32;
  std::string extra;
  if (wide) {
    Little(extra, 1, 2);
    Little(extra, placed.offset >= kLimit32 ? 24 : 16, 2);
    Little(extra, placed.size, 8);
    Little(extra, placed.size, 8);
    if (placed.offset >= kLimit32) Little(extra, placed.offset, 8);
  }
  Little(text, 0x02014b50, 4);
  Little(text, wide ? 45 : 20, 2);
  CommonFields(text, placed.checksum, placed.size, placed.name.size(), wide);
  Little(text, extra.size(), 2);
  text.append(10, '\0');  // No comment, first disk, no attributes.
  Little(text, Short(placed.offset), 4);
  absl::StrAppend(&text, placed.name, extra);
}

// `text` is the directory; it lies at `directory` in the file.
void AddEnd(uint64_t directory, uint64_t entries, std::string& text) {
  const uint64_t directory_bytes = text.size();
  const uint64_t end = directory + directory_bytes;
  if (end >= kLimit32 || entries >= kLimit16) {
    Little(text, 0x06064b50, 4);
    Little(text, 44, 8);
    Little(text, 45, 2);
    Little(text, 45, 2);
    text.append(8, '\0');
    Little(text, entries, 8);
    Little(text, entries, 8);
    Little(text, directory_bytes, 8);
    Little(text, directory, 8);
    Little(text, 0x07064b50, 4);
    text.append(4, '\0');
    Little(text, end, 8);
    Little(text, 1, 4);
  }
  const uint64_t count = std::min(entries, kLimit16);
  Little(text, 0x06054b50, 4);
  text.append(4, '\0');
  Little(text, count, 2);
  Little(text, count, 2);
  Little(text, Short(directory_bytes), 4);
  Little(text, Short(directory), 4);
  text.append(2, '\0');
}

}  // namespace

absl::StatusOr<std::unique_ptr<ZipWriter>> ZipWriter::Create(const std::string& path) {
  std::unique_ptr<ZipWriter> writer(new ZipWriter());
  writer->path_ = path;
  static std::atomic<uint64_t> counter{0};
  writer->temporary_path_ = absl::StrCat(path, ".", getpid(), ".", counter++, ".partial");
  writer->fd_ =
      open(writer->temporary_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) return ErrnoStatus(errno, "creating ", writer->temporary_path_);
  return writer;
}

ZipWriter::~ZipWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_path_.c_str());
}

absl::Status ZipWriter::Append(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = write(fd_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoStatus(errno, "writing ", path_);
    bytes.remove_prefix(static_cast<size_t>(wrote));
    at_ += static_cast<uint64_t>(wrote);
  }
  return absl::OkStatus();
}

absl::Status ZipWriter::Add(absl::string_view name, absl::Span<const uint8_t> bytes) {
  const Placed placed = {
      .name = std::string(name), .checksum = Checksum(bytes), .size = bytes.size(), .offset = at_};
  const bool wide = placed.size >= kLimit32;
  std::string extra;
  if (wide) {
    Little(extra, 1, 2);
    Little(extra, 16, 2);
    Little(extra, placed.size, 8);
    Little(extra, placed.size, 8);
  }
  const uint64_t data = at_ + kLocalHeaderBytes + name.size() + extra.size() + 4;
  const uint64_t padding = (kAlignmentBytes - data % kAlignmentBytes) % kAlignmentBytes;
  Little(extra, kPaddingField, 2);
  Little(extra, padding, 2);
  extra.append(padding, 'Z');

  std::string header;
  Little(header, 0x04034b50, 4);
  CommonFields(header, placed.checksum, placed.size, name.size(), wide);
  Little(header, extra.size(), 2);
  QD_RETURN_IF_ERROR(Append(absl::StrCat(header, name, extra)));
  QD_RETURN_IF_ERROR(Append({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  placed_.push_back(placed);
  return absl::OkStatus();
}

absl::Status ZipWriter::Finish() {
  const uint64_t directory = at_;
  std::string text;
  for (const Placed& placed : placed_) AddDirectoryEntry(placed, text);
  AddEnd(directory, placed_.size(), text);
  QD_RETURN_IF_ERROR(Append(text));
  if (fsync(fd_) != 0) return ErrnoStatus(errno, "syncing ", temporary_path_);
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
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  return SyncFolder(folder.empty() ? "." : folder);
}

}  // namespace quantd::engine
