// Reading and writing GGUF files (version 3, little-endian): "GGUF", counts, typed metadata, the
// tensors' names, shapes and places, their bytes. The reader maps the file and trusts nothing in
// it: every count, length, type and place is checked before it is used. Refuses version 1,
// big-endian files, parts of split models, and metadata that nests arrays (no tool writes any).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/gguf_types.h"
#include "workers/engine/checkpoint/mapped_file.h"
#include "workers/engine/checkpoint/partial_file.h"

namespace quantd::engine {

// The values are those on disk.
enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// A value of the metadata. `data` holds what `type` (of an array: of its elements) says: whole
// numbers and bool as int64, fractions as double, strings.
struct GgufValue {
  GgufValueType type = GgufValueType::kU32;
  bool is_array = false;
  std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
               std::vector<std::string>>
      data;

  static GgufValue U32(int64_t value) { return {GgufValueType::kU32, false, value}; }
  static GgufValue F32(double value) { return {GgufValueType::kF32, false, value}; }
  static GgufValue Bool(bool value) {
    return {GgufValueType::kBool, false, static_cast<int64_t>(value)};
  }
  static GgufValue String(std::string value) {
    return {GgufValueType::kString, false, std::move(value)};
  }
  static GgufValue Strings(std::vector<std::string> values) {
    return {GgufValueType::kString, true, std::move(values)};
  }
  static GgufValue I32s(std::vector<int64_t> values) {
    return {GgufValueType::kI32, true, std::move(values)};
  }
  static GgufValue F32s(std::vector<double> values) {
    return {GgufValueType::kF32, true, std::move(values)};
  }

  // Null unless the value is of that kind.
  const int64_t* integer() const { return std::get_if<int64_t>(&data); }
  const double* fraction() const { return std::get_if<double>(&data); }
  const std::string* text() const { return std::get_if<std::string>(&data); }
  const std::vector<int64_t>* integers() const { return std::get_if<std::vector<int64_t>>(&data); }
  const std::vector<double>* fractions() const { return std::get_if<std::vector<double>>(&data); }
  const std::vector<std::string>* texts() const {
    return std::get_if<std::vector<std::string>>(&data);
  }
};

using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

// A tensor without its bytes. `shape` is in our order, the last dimension being the one that blocks
// run along (files have it the other way round).
struct GgufTensorInfo {
  std::string name;
  kernels::GgufType type = kernels::GgufType::kF32;
  std::vector<int64_t> shape;
};

// Bytes of its data. InvalidArgument when the last dimension is no multiple of the type's block or
// the product overflows.
absl::StatusOr<int64_t> GgufTensorBytes(const GgufTensorInfo& tensor);

struct GgufTensorView {
  kernels::GgufType type;
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> bytes;
};

// Thread-safe after Open.
class GgufFile {
 public:
  // DataLoss: damaged or hostile; Unimplemented: a version, tensor type or split model that is not
  // read; others as MappedFile's.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  int64_t size_bytes() const { return static_cast<int64_t>(file_.bytes().size()); }
  const GgufMetadata& metadata() const { return metadata_; }
  // In the order of the file.
  const std::vector<std::string>& names() const { return names_; }
  // Null when there is none of that name.
  const GgufTensorView* Find(absl::string_view name) const;
  // Null when there is none.
  const GgufValue* Value(absl::string_view key) const;

 private:
  GgufFile() = default;
  MappedFile file_;
  GgufMetadata metadata_;
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, GgufTensorView> tensors_;
};

// Writes one file: metadata and all names first, then the tensors' bytes in any order (whole or in
// parts), then Finish. Not thread-safe.
class GgufWriter {
 public:
  // Tensors lie in the file in the order given, each at a multiple of 32 bytes.
  static absl::StatusOr<std::unique_ptr<GgufWriter>> Create(const std::string& path,
                                                            const GgufMetadata& metadata,
                                                            std::vector<GgufTensorInfo> tensors);

  // The next bytes of the tensor. Fails for a name not announced, or more bytes than its shape has.
  absl::Status Append(absl::string_view name, absl::Span<const uint8_t> bytes);
  // Fails when a tensor is not whole. Afterwards the file is durable under its name.
  absl::Status Finish();

  int64_t file_bytes() const { return file_bytes_; }

 private:
  struct Slot {
    int64_t offset = 0;
    int64_t size_bytes = 0;
    int64_t written = 0;
  };
  GgufWriter() = default;
  std::string path_;
  PartialFile file_;
  int64_t file_bytes_ = 0;
  absl::flat_hash_map<std::string, Slot> slots_;
};

}  // namespace quantd::engine
