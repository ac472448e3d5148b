// Reading and writing safetensors files: 8 bytes of header length, a JSON header, the tensors'
// bytes. The reader maps the file and trusts nothing in it: every rule of the format is checked
// before the first byte of a tensor is handed out, and an error names the file, the tensor and the
// value. Refuses pickles and ZIPs whatever their name. The writer streams, so that a shard never
// exists in memory.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/dtype.h"
#include "workers/engine/checkpoint/mapped_file.h"
#include "workers/engine/checkpoint/partial_file.h"

namespace quantd::engine {

// A tensor's place in a mapped file. Valid as long as its SafetensorsFile. `bytes` is
// little-endian, row-major and read-only (writing to it is a fault), and need not be aligned to the
// dtype.
struct TensorView {
  DType dtype;
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> bytes;
};

// What a tensor is, without its bytes.
struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
};

// Elements of `shape`; DataLoss for a negative dimension or a product above 2^63 - 1.
absl::StatusOr<int64_t> ElementCount(absl::Span<const int64_t> shape);
// Bytes of a tensor's data; errors as ElementCount's.
absl::StatusOr<int64_t> DataBytes(DType dtype, absl::Span<const int64_t> shape);
// "[4096, 256]".
std::string ShapeText(absl::Span<const int64_t> shape);

// A mapped file of tensors. Thread-safe.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  virtual const std::string& path() const = 0;
  // Tensors in the file's order.
  virtual const std::vector<std::string>& names() const = 0;
  // nullptr when there is none of that name.
  virtual const TensorView* Find(absl::string_view name) const = 0;
  // Drops the file's pages under `bytes` (part of a tensor of this file) from this process (they
  // stay in the page cache as long as the system likes): keeps resident memory bounded while a
  // large model streams through. Reading them again is correct.
  virtual void ReleasePages(absl::Span<const uint8_t> bytes) const;
};

// Thread-safe after Open.
class SafetensorsFile : public TensorFile {
 public:
  // Maps `path` and checks its header. DataLoss: the file is damaged or hostile; others as
  // MappedFile's.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const override { return file_.path(); }
  int64_t size_bytes() const { return static_cast<int64_t>(file_.bytes().size()); }
  // Tensors in the order of their bytes.
  const std::vector<std::string>& names() const override { return names_; }
  // The header's "__metadata__".
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorView* Find(absl::string_view name) const override;

 private:
  SafetensorsFile() = default;
  MappedFile file_;
  std::vector<std::string> names_;
  std::map<std::string, std::string> metadata_;
  absl::flat_hash_map<std::string, TensorView> tensors_;
};

// Writes one file: all names first (the header goes out at once), then the tensors in any order,
// then Finish. Until Finish the file has a temporary name; the destructor removes it. Not
// thread-safe.
class SafetensorsWriter {
 public:
  // Tensors lie in the file in the order given, except that wider dtypes come first so that every
  // tensor is aligned. Metadata gets {"format": "pt"}, without which transformers refuses the file.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, std::vector<TensorInfo> tensors,
      std::map<std::string, std::string> metadata = {});
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Writes a tensor's bytes. Fails for a name not announced, a
  // name written before, or a size that does not fit the announced shape. ResourceExhausted when
  // the disk is full.
  absl::Status Write(absl::string_view name, absl::Span<const uint8_t> bytes);
  // Fails when a tensor is missing. Afterwards the file is durable under its final name.
  absl::Status Finish();

  int64_t file_bytes() const { return file_bytes_; }

 private:
  struct Slot {
    int64_t offset = 0;
    int64_t size_bytes = 0;
    bool written = false;
  };
  SafetensorsWriter() = default;
  std::string path_;
  PartialFile file_;
  int64_t file_bytes_ = 0;
  absl::flat_hash_map<std::string, Slot> slots_;
};

}  // namespace quantd::engine
