// See torch_file.h.
#include "workers/engine/checkpoint/torch_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/checkpoint/pickle.h"

namespace quantd::engine {
namespace {

constexpr char kPickleName[] = "/data.pkl";
constexpr size_t kPickleBytesMax = 256 << 20;  // 300 bytes a tensor, 500,000 tensors, and room.

absl::Status Damaged(absl::string_view what) { return absl::DataLossError(what); }

// The tensor's bytes within its storage.
absl::StatusOr<absl::Span<const uint8_t>> BytesOf(const PickledTensor& tensor,
                                                  absl::Span<const uint8_t> storage) {
  const int64_t width = DTypeBytes(tensor.dtype);
  QD_ASSIGN_OR_RETURN(const int64_t elements, ElementCount(tensor.shape));
  int64_t stride = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (elements > 0 && tensor.shape[i] != 1 && tensor.strides[i] != stride) {
      return Damaged("is not contiguous; save it from a model whose tensors are");
    }
    stride *= tensor.shape[i];
  }
  const int64_t available = static_cast<int64_t>(storage.size()) / width;
  if (tensor.offset > available || elements > available - tensor.offset) {
    return Damaged(absl::StrCat("needs ", elements, " elements from ", tensor.offset,
                                " on of a storage of ", available));
  }
  return storage.subspan(tensor.offset * width, elements * width);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchFile>> TorchFile::Open(const std::string& path) {
  std::unique_ptr<TorchFile> file(new TorchFile());
  file->path_ = path;
  QD_RETURN_IF_ERROR(file->Map());
  QD_RETURN_IF_ERROR(file->Index(), path);
  return file;
}

absl::Status TorchFile::Map() {
  // Without O_NONBLOCK a FIFO of that name would hang the process here.
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, "opening ", path_);
  struct stat info {};
  absl::Status status;
  if (fstat(fd, &info) != 0) {
    status = ErrnoStatus(errno, "reading ", path_);
  } else if (!S_ISREG(info.st_mode) || info.st_size == 0) {
    status = Damaged(absl::StrCat(path_, ": is empty or not a regular file"));
  } else {
    void* data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
      status = ErrnoStatus(errno, "mapping ", path_);
    } else {
      data_ = static_cast<uint8_t*>(data);
      size_bytes_ = info.st_size;
    }
  }
  close(fd);
  return status;
}

absl::Status TorchFile::Index() {
  const absl::Span<const uint8_t> file(data_, static_cast<size_t>(size_bytes_));
  if (size_bytes_ < 4 || file[0] != 'P' || file[1] != 'K') {
    return Damaged("is no ZIP: files of torch.save before version 1.6 are not read");
  }
  QD_ASSIGN_OR_RETURN(std::vector<ZipEntry> entries, ReadZipDirectory(file));
  std::map<std::string, absl::Span<const uint8_t>> parts;
  const ZipEntry* pickle = nullptr;
  std::string prefix;
  for (const ZipEntry& entry : entries) {
    absl::string_view name = entry.name;
    if (absl::ConsumeSuffix(&name, kPickleName) && pickle == nullptr) {
      pickle = &entry;
      prefix = std::string(name);
    }
    if (!parts.emplace(entry.name, entry.bytes).second) {
      return Damaged(absl::StrCat("its ZIP has the entry ", Quoted(entry.name), " twice"));
    }
  }
  if (pickle == nullptr) return Damaged("its ZIP has no data.pkl: not a file of torch.save");
  const auto order = parts.find(prefix + "/byteorder");
  if (order != parts.end() && (order->second.empty() || order->second[0] != 'l')) {
    return Damaged("its numbers are not little-endian");
  }
  if (pickle->bytes.size() > kPickleBytesMax) return Damaged("its pickle is too long");
  QD_ASSIGN_OR_RETURN(
      const std::vector<PickledTensor> tensors,
      ReadStateDict({reinterpret_cast<const char*>(pickle->bytes.data()), pickle->bytes.size()}));
  for (const PickledTensor& tensor : tensors) {
    const auto part = parts.find(absl::StrCat(prefix, "/data/", tensor.storage));
    if (part == parts.end()) {
      return Damaged(absl::StrCat("tensor ", Quoted(tensor.name), ": its storage ",
                                  Quoted(tensor.storage), " is missing"));
    }
    QD_ASSIGN_OR_RETURN(const auto bytes, BytesOf(tensor, part->second), "tensor ",
                        Quoted(tensor.name));
    if (!tensors_
             .emplace(tensor.name,
                      TensorView{.dtype = tensor.dtype, .shape = tensor.shape, .bytes = bytes})
             .second) {
      return Damaged(absl::StrCat("holds tensor ", Quoted(tensor.name), " twice"));
    }
    names_.push_back(tensor.name);
  }
  return absl::OkStatus();
}

TorchFile::~TorchFile() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_bytes_));
}

const TensorView* TorchFile::Find(absl::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

absl::StatusOr<std::unique_ptr<TorchWriter>> TorchWriter::Create(const std::string& path,
                                                                 std::vector<TensorInfo> tensors) {
  std::unique_ptr<TorchWriter> writer(new TorchWriter());
  writer->path_ = path;
  writer->prefix_ = std::filesystem::path(path).stem().string();
  writer->tensors_ = std::move(tensors);
  QD_ASSIGN_OR_RETURN(const std::string pickle, WriteStateDict(writer->tensors_), "writing ", path);
  QD_ASSIGN_OR_RETURN(writer->zip_, ZipWriter::Create(path));
  const auto add = [&](absl::string_view name, absl::string_view text) {
    return writer->zip_->Add(
        absl::StrCat(writer->prefix_, name),
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  };
  QD_RETURN_IF_ERROR(add(kPickleName, pickle));
  QD_RETURN_IF_ERROR(add("/byteorder", "little"));
  return writer;
}

absl::Status TorchWriter::Write(absl::string_view name, absl::Span<const uint8_t> bytes) {
  if (written_ == tensors_.size() || tensors_[written_].name != name) {
    return absl::InvalidArgumentError(absl::StrCat("writing ", path_, ": tensor ", Quoted(name),
                                                   " is not the next that was announced"));
  }
  const TensorInfo& tensor = tensors_[written_];
  QD_ASSIGN_OR_RETURN(const int64_t size, DataBytes(tensor.dtype, tensor.shape));
  if (size != static_cast<int64_t>(bytes.size())) {
    return absl::InvalidArgumentError(absl::StrCat("writing ", path_, ": tensor ", Quoted(name),
                                                   " has ", bytes.size(),
                                                   " bytes but was announced with ", size));
  }
  return zip_->Add(absl::StrCat(prefix_, "/data/", written_++), bytes);
}

absl::Status TorchWriter::Finish() {
  if (written_ != tensors_.size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "writing ", path_, ": tensor ", Quoted(tensors_[written_].name), " was never written"));
  }
  constexpr absl::string_view kVersion = "3\n";  // Of the archive, as torch.save writes it.
  QD_RETURN_IF_ERROR(zip_->Add(
      absl::StrCat(prefix_, "/version"),
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(kVersion.data()), kVersion.size())));
  return zip_->Finish();
}

}  // namespace quantd::engine
