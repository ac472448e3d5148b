// The reader: every check of the header lies between Open and the first use of a byte. The header
// is read as SAX events, so that what it may make us allocate is bounded by its own length.
#include "workers/engine/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/checkpoint/header_json.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors are little-endian");

constexpr int64_t kLengthBytes = 8;
// The reference implementation's limit: a header above it is an attack on memory.
constexpr int64_t kHeaderBytesMax = 100'000'000;

absl::Status Damaged(absl::string_view path, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// What a file that is no safetensors file is instead, or "".
std::string OtherKind(absl::string_view start) {
  struct Magic {
    absl::string_view bytes;
    absl::string_view kind;
  };
  constexpr absl::string_view kPickle =
      "is a Python pickle, which can run code when it is read and therefore never is; convert the "
      "model to "
      "safetensors (save_pretrained of transformers does) and use that";
  static constexpr Magic kMagics[] = {
      {"PK\x03\x04",
       "is a ZIP archive, most likely a PyTorch pickle (.pt, .bin), which can run code when it is "
       "read and therefore never is; convert the model to safetensors (save_pretrained of "
       "transformers does) and use that"},
      {"\x80\x02", kPickle},
      {"\x80\x03", kPickle},
      {"\x80\x04", kPickle},
      {"\x80\x05", kPickle},
      {"GGUF", "is a GGUF file; give the Hugging Face checkpoint that it was made from"},
      {"\x89HDF", "is an HDF5 file; convert the model to safetensors"},
      {"version https://git-lfs",
       "is a Git LFS pointer, not the file itself; run \"git lfs pull\""},
      {"<!DOCTYPE",
       "is an HTML page, most likely an error message of the server it was downloaded from"},
      {"<html",
       "is an HTML page, most likely an error message of the server it was downloaded from"},
  };
  for (const Magic& magic : kMagics) {
    if (absl::StartsWith(start, magic.bytes)) return std::string(magic.kind);
  }
  return "";
}

// The header's text, or why this cannot be a safetensors file.
absl::StatusOr<absl::string_view> HeaderText(const std::string& path,
                                             absl::Span<const uint8_t> bytes) {
  const int64_t size_bytes = static_cast<int64_t>(bytes.size());
  const absl::string_view file(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto refuse = [&](absl::string_view what) {
    const std::string other = OtherKind(file);
    return Damaged(path, other.empty() ? what : absl::string_view(other));
  };
  if (size_bytes < kLengthBytes) {
    return refuse(absl::StrCat(
        "has ", size_bytes, " bytes, but a safetensors file begins with 8 bytes of header length"));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > static_cast<uint64_t>(kHeaderBytesMax)) {
    return refuse(absl::StrCat("says its header has ", length, " bytes; at most ", kHeaderBytesMax,
                               " are allowed"));
  }
  if (length > static_cast<uint64_t>(size_bytes - kLengthBytes)) {
    return refuse(absl::StrCat("says its header has ", length, " bytes, but only ",
                               size_bytes - kLengthBytes,
                               " follow; the file is cut off or damaged"));
  }
  const absl::string_view header = file.substr(kLengthBytes, length);
  if (header.empty() || header.front() != '{') {
    return refuse(
        absl::StrCat("its header does not begin with '{' but with ", Quoted(header.substr(0, 1))));
  }
  if (!IsValidUtf8(header)) return Damaged(path, "its header is not valid UTF-8");
  return header;
}

absl::Status CheckPlace(const HeaderTensor& tensor, int64_t buffer_bytes) {
  QD_ASSIGN_OR_RETURN(const int64_t bytes, DataBytes(tensor.dtype, tensor.shape));
  const absl::string_view dtype = DTypeName(tensor.dtype);
  if (tensor.end > static_cast<uint64_t>(buffer_bytes) || tensor.begin > tensor.end) {
    return absl::DataLossError(absl::StrCat("data_offsets [", tensor.begin, ", ", tensor.end,
                                            "] are not a range within the ", buffer_bytes,
                                            " bytes of data"));
  }
  if (tensor.end - tensor.begin != static_cast<uint64_t>(bytes)) {
    return absl::DataLossError(absl::StrCat("data_offsets [", tensor.begin, ", ", tensor.end,
                                            "] hold ", tensor.end - tensor.begin, " bytes, but ",
                                            dtype, " ", ShapeText(tensor.shape), " has ", bytes));
  }
  return absl::OkStatus();
}

// Sorts by place and checks that the ranges cover the data exactly.
absl::Status CheckTiling(std::vector<HeaderTensor>& tensors, int64_t buffer_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const HeaderTensor& a, const HeaderTensor& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t covered = 0;
  for (const HeaderTensor& tensor : tensors) {
    if (tensor.begin != covered) {
      return absl::DataLossError(absl::StrCat(
          "tensor ", Quoted(tensor.name), " begins at byte ", tensor.begin,
          tensor.begin < covered ? " within another tensor, which ends at " : " after a hole from ",
          covered));
    }
    covered = tensor.end;
  }
  if (covered != static_cast<uint64_t>(buffer_bytes)) {
    return absl::DataLossError(absl::StrCat(static_cast<uint64_t>(buffer_bytes) - covered,
                                            " bytes after the last tensor belong to none of them"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> ElementCount(absl::Span<const int64_t> shape) {
  int64_t count = 1;
  bool overflow = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) {
      return absl::DataLossError(
          absl::StrCat("shape ", ShapeText(shape), " has a negative dimension"));
    }
    // Looks at all dimensions: a zero further on does not excuse a product that overflows before
    // it.
    overflow = __builtin_mul_overflow(count, dimension, &count) || overflow;
  }
  if (overflow) {
    return absl::DataLossError(
        absl::StrCat("shape ", ShapeText(shape), " has more elements than 63 bits can count"));
  }
  return count;
}

absl::StatusOr<int64_t> DataBytes(DType dtype, absl::Span<const int64_t> shape) {
  QD_ASSIGN_OR_RETURN(const int64_t count, ElementCount(shape));
  int64_t bytes = 0;
  if (__builtin_mul_overflow(count, DTypeBytes(dtype), &bytes)) {
    return absl::DataLossError(
        absl::StrCat("shape ", ShapeText(shape), " has more bytes than 63 bits can count"));
  }
  return bytes;
}

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile());
  QD_ASSIGN_OR_RETURN(file->file_, MappedFile::Open(path));
  QD_ASSIGN_OR_RETURN(const absl::string_view header, HeaderText(path, file->file_.bytes()));
  HeaderJson parsed;
  QD_RETURN_IF_ERROR(ParseHeaderJson(header, &parsed), path);
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(header.size());
  const int64_t buffer_bytes = file->size_bytes() - data_begin;
  for (const HeaderTensor& tensor : parsed.tensors) {
    QD_RETURN_IF_ERROR(CheckPlace(tensor, buffer_bytes), path, ": tensor ", Quoted(tensor.name));
  }
  QD_RETURN_IF_ERROR(CheckTiling(parsed.tensors, buffer_bytes), path);

  file->metadata_ = std::move(parsed.metadata);
  file->names_.reserve(parsed.tensors.size());
  file->tensors_.reserve(parsed.tensors.size());
  for (HeaderTensor& tensor : parsed.tensors) {
    file->names_.push_back(tensor.name);
    file->tensors_.emplace(
        std::move(tensor.name),
        TensorView{.dtype = tensor.dtype,
                   .shape = std::move(tensor.shape),
                   .bytes = file->file_.bytes().subspan(
                       static_cast<size_t>(data_begin) + tensor.begin, tensor.end - tensor.begin)});
  }
  return file;
}

const TensorView* SafetensorsFile::Find(absl::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

void TensorFile::ReleasePages(absl::Span<const uint8_t> bytes) const {
  MappedFile::ReleasePages(bytes);
}

}  // namespace quantd::engine
