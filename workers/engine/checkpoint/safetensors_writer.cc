// The writer: the header goes out first, so that each tensor's place is known and any order of
// writing will do.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/header_json.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {
namespace {

// Data begins at a multiple of the widest dtype, so that tensors sorted by width are all aligned.
constexpr size_t kAlignmentBytes = 8;

absl::Status WriteAt(int fd, const void* data, size_t size_bytes, int64_t offset,
                     const std::string& path) {
  const char* next = static_cast<const char*>(data);
  while (size_bytes > 0) {
    const ssize_t wrote = pwrite(fd, next, size_bytes, offset);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoStatus(errno, "writing ", path);
    next += wrote;
    size_bytes -= static_cast<size_t>(wrote);
    offset += wrote;
  }
  return absl::OkStatus();
}

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

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<TensorInfo> tensors,
    std::map<std::string, std::string> metadata) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter());
  writer->path_ = path;
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return DTypeBytes(a.dtype) > DTypeBytes(b.dtype);
  });
  metadata.emplace("format", "pt");
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  int64_t data_bytes = 0;
  for (const TensorInfo& tensor : tensors) {
    QD_RETURN_IF_ERROR(CheckTensorName(tensor.name), "writing ", path);
    QD_ASSIGN_OR_RETURN(const int64_t bytes, DataBytes(tensor.dtype, tensor.shape), "writing ",
                        path, ": tensor ", Quoted(tensor.name));
    if (!writer->slots_.try_emplace(tensor.name, Slot{.offset = data_bytes, .size_bytes = bytes})
             .second) {
      return absl::InvalidArgumentError(
          absl::StrCat("writing ", path, ": tensor ", Quoted(tensor.name), " is announced twice"));
    }
    header[tensor.name] = {{"dtype", std::string(DTypeName(tensor.dtype))},
                           {"shape", tensor.shape},
                           {"data_offsets", {data_bytes, data_bytes + bytes}}};
    data_bytes += bytes;
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.append((kAlignmentBytes - text.size() % kAlignmentBytes) % kAlignmentBytes, ' ');
  const uint64_t length = text.size();
  std::string start(sizeof length, '\0');
  std::memcpy(start.data(), &length, sizeof length);
  start += text;
  for (auto& [name, slot] : writer->slots_) slot.offset += static_cast<int64_t>(start.size());
  writer->file_bytes_ = static_cast<int64_t>(start.size()) + data_bytes;

  static std::atomic<uint64_t> counter{0};
  writer->temporary_path_ = absl::StrCat(path, ".", getpid(), ".", counter++, ".partial");
  writer->fd_ =
      open(writer->temporary_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) return ErrnoStatus(errno, "creating ", writer->temporary_path_);
  QD_RETURN_IF_ERROR(ReserveSpace(writer->fd_, writer->file_bytes_, path));
  QD_RETURN_IF_ERROR(WriteAt(writer->fd_, start.data(), start.size(), 0, path));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_path_.c_str());
}

absl::Status SafetensorsWriter::Write(absl::string_view name, absl::Span<const uint8_t> bytes) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("writing ", path_, ": tensor ", Quoted(name), " ", why));
  };
  if (fd_ < 0) return refuse("comes after Finish");
  const auto found = slots_.find(name);
  if (found == slots_.end()) return refuse("was not announced");
  Slot& slot = found->second;
  if (slot.written) return refuse("was written before");
  if (static_cast<int64_t>(bytes.size()) != slot.size_bytes) {
    return refuse(
        absl::StrCat("has ", bytes.size(), " bytes but was announced with ", slot.size_bytes));
  }
  QD_RETURN_IF_ERROR(WriteAt(fd_, bytes.data(), bytes.size(), slot.offset, path_));
  slot.written = true;
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (fd_ < 0) {
    return absl::FailedPreconditionError(absl::StrCat("writing ", path_, ": finished before"));
  }
  for (const auto& [name, slot] : slots_) {
    if (!slot.written) {
      return absl::FailedPreconditionError(absl::StrCat(
          "writing ", path_, ": tensor ", Quoted(name), " was announced but never written"));
    }
  }
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
