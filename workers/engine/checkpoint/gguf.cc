// The reader: one cursor that cannot leave the file, and checks in the order of the bytes. What a
// file can make us allocate is bounded by its own length.
#include "workers/engine/checkpoint/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/checkpoint/header_json.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF files are little-endian");

constexpr uint32_t kVersion = 3;
constexpr uint32_t kOldestVersion = 2;     // The same layout.
constexpr uint64_t kMetadataMax = 65'536;  // Real files have about 50.
constexpr size_t kKeyBytesMax = 65'535;    // The specification's limit.
constexpr uint32_t kDimensionsMax = 4;
constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kAlignmentMax = 1 << 16;

struct ScalarKind {
  GgufValueType type;
  absl::string_view name;
  uint64_t bytes;
  bool is_signed;
};
constexpr ScalarKind kScalars[] = {
    {GgufValueType::kU8, "u8", 1, false},   {GgufValueType::kI8, "i8", 1, true},
    {GgufValueType::kU16, "u16", 2, false}, {GgufValueType::kI16, "i16", 2, true},
    {GgufValueType::kU32, "u32", 4, false}, {GgufValueType::kI32, "i32", 4, true},
    {GgufValueType::kF32, "f32", 4, true},  {GgufValueType::kBool, "bool", 1, false},
    {GgufValueType::kU64, "u64", 8, false}, {GgufValueType::kI64, "i64", 8, true},
    {GgufValueType::kF64, "f64", 8, true},
};

const ScalarKind* FindScalar(GgufValueType type) {
  for (const ScalarKind& kind : kScalars) {
    if (kind.type == type) return &kind;
  }
  return nullptr;
}

// Reads forward. The first failure stays; later reads give zeros, so that a row of reads needs one
// check.
class Cursor {
 public:
  explicit Cursor(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  const absl::Status& status() const { return status_; }
  uint64_t left() const { return bytes_.size() - at_; }
  uint64_t at() const { return at_; }

  void Fail(absl::string_view what) {
    if (status_.ok()) status_ = absl::DataLossError(absl::StrCat("byte ", at_, ": ", what));
  }
  template <typename T>
  T Number(absl::string_view what) {
    T value = 0;
    if (!status_.ok()) return value;
    if (left() < sizeof value) {
      Fail(absl::StrCat(what, " has ", sizeof value, " bytes, but the file ends after ", left()));
      return value;
    }
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  absl::string_view String(absl::string_view what) {
    const uint64_t size = Number<uint64_t>(what);
    if (!status_.ok()) return {};
    if (size > left()) {
      Fail(absl::StrCat(what, " is said to have ", size, " bytes, but only ", left(), " follow"));
      return {};
    }
    const absl::string_view text(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
    at_ += size;
    return text;
  }
  // A whole number or bool of a scalar type as int64; a float as double.
  int64_t Integer(const ScalarKind& kind, absl::string_view what) {
    switch (kind.bytes) {
      case 1:
        return kind.is_signed ? Number<int8_t>(what) : Number<uint8_t>(what);
      case 2:
        return kind.is_signed ? Number<int16_t>(what) : Number<uint16_t>(what);
      case 4:
        return kind.is_signed ? Number<int32_t>(what) : int64_t{Number<uint32_t>(what)};
      default:
        break;
    }
    const uint64_t value = Number<uint64_t>(what);
    if (!kind.is_signed && value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      Fail(absl::StrCat(what, " is ", value, ", beyond 63 bits"));
    }
    return static_cast<int64_t>(value);
  }
  double Fraction(const ScalarKind& kind, absl::string_view what) {
    return kind.bytes == 4 ? Number<float>(what) : Number<double>(what);
  }

 private:
  absl::Span<const uint8_t> bytes_;
  uint64_t at_ = 0;
  absl::Status status_;
};

bool IsFraction(GgufValueType type) {
  return type == GgufValueType::kF32 || type == GgufValueType::kF64;
}

GgufValue ReadArray(Cursor& cursor, absl::string_view what) {
  const auto element = static_cast<GgufValueType>(cursor.Number<uint32_t>(what));
  const uint64_t count = cursor.Number<uint64_t>(what);
  GgufValue value = {element, true, int64_t{0}};
  const ScalarKind* scalar = FindScalar(element);
  if (scalar == nullptr && element != GgufValueType::kString) {
    cursor.Fail(absl::StrCat(what,
                             element == GgufValueType::kArray
                                 ? " is an array of arrays, which is not read"
                                 : " is an array of an unknown type",
                             " (", static_cast<uint32_t>(element), ")"));
    return value;
  }
  // A string has eight bytes at least.
  const uint64_t smallest = scalar == nullptr ? sizeof(uint64_t) : scalar->bytes;
  if (count > cursor.left() / smallest) {
    cursor.Fail(absl::StrCat(what, " is said to have ", count, " elements, but only ",
                             cursor.left(), " bytes follow"));
    return value;
  }
  const auto fill = [&](auto values, const auto& read) {
    values.reserve(count);
    for (uint64_t i = 0; i < count && cursor.status().ok(); ++i) values.emplace_back(read());
    value.data = std::move(values);
  };
  if (scalar == nullptr) {
    fill(std::vector<std::string>(), [&] { return std::string(cursor.String(what)); });
  } else if (IsFraction(element)) {
    fill(std::vector<double>(), [&] { return cursor.Fraction(*scalar, what); });
  } else {
    fill(std::vector<int64_t>(), [&] { return cursor.Integer(*scalar, what); });
  }
  return value;
}

GgufValue ReadValue(Cursor& cursor, absl::string_view what) {
  const auto type = static_cast<GgufValueType>(cursor.Number<uint32_t>(what));
  if (type == GgufValueType::kArray) return ReadArray(cursor, what);
  if (type == GgufValueType::kString) {
    return {type, false, std::string(cursor.String(what))};
  }
  const ScalarKind* scalar = FindScalar(type);
  if (scalar == nullptr) {
    cursor.Fail(absl::StrCat(what, " has the unknown type ", static_cast<uint32_t>(type)));
    return {};
  }
  if (IsFraction(type)) return {type, false, cursor.Fraction(*scalar, what)};
  GgufValue value = {type, false, cursor.Integer(*scalar, what)};
  if (type == GgufValueType::kBool && *value.integer() > 1) {
    cursor.Fail(absl::StrCat(what, " is a bool of value ", *value.integer()));
  }
  return value;
}

absl::Status ReadMetadata(Cursor& cursor, uint64_t count, GgufMetadata* metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    const absl::string_view key = cursor.String(absl::StrCat("the key of metadata ", i));
    QD_RETURN_IF_ERROR(cursor.status());
    if (key.empty() || key.size() > kKeyBytesMax || !IsValidUtf8(key)) {
      cursor.Fail(absl::StrCat("metadata key ", Quoted(key), " is not 1 to ", kKeyBytesMax,
                               " bytes of UTF-8"));
      return cursor.status();
    }
    GgufValue value = ReadValue(cursor, absl::StrCat("metadata ", Quoted(key)));
    QD_RETURN_IF_ERROR(cursor.status());
    if (!metadata->emplace(key, std::move(value)).second) {
      cursor.Fail(absl::StrCat("metadata key ", Quoted(key), " appears twice"));
      return cursor.status();
    }
  }
  return absl::OkStatus();
}

struct PlacedTensor {
  GgufTensorInfo info;
  uint64_t offset = 0;
  int64_t size_bytes = 0;
};

absl::StatusOr<PlacedTensor> ReadTensor(Cursor& cursor, uint64_t number) {
  PlacedTensor tensor;
  tensor.info.name = std::string(cursor.String(absl::StrCat("the name of tensor ", number)));
  QD_RETURN_IF_ERROR(cursor.status());
  QD_RETURN_IF_ERROR(CheckTensorName(tensor.info.name));
  const std::string what = absl::StrCat("tensor ", Quoted(tensor.info.name));
  const uint32_t dimensions = cursor.Number<uint32_t>(what);
  if (dimensions > kDimensionsMax) {
    cursor.Fail(absl::StrCat(what, " has ", dimensions, " dimensions; at most ", kDimensionsMax,
                             " are allowed"));
  }
  for (uint32_t i = 0; i < dimensions && cursor.status().ok(); ++i) {
    const uint64_t size = cursor.Number<uint64_t>(what);
    if (size == 0 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      cursor.Fail(absl::StrCat(what, " has a dimension of ", size));
    }
    tensor.info.shape.insert(tensor.info.shape.begin(), static_cast<int64_t>(size));
  }
  const uint32_t type = cursor.Number<uint32_t>(what);
  tensor.offset = cursor.Number<uint64_t>(what);
  QD_RETURN_IF_ERROR(cursor.status());
  tensor.info.type = static_cast<kernels::GgufType>(type);
  if (kernels::FindGgufBlock(tensor.info.type) == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat(what, " has type ", type,
                     "; this engine reads f32, f16, bf16, q8_0, q4_0 to q5_1 and "
                     "q2_k to q6_k"));
  }
  const absl::StatusOr<int64_t> bytes = GgufTensorBytes(tensor.info);
  if (!bytes.ok()) return absl::DataLossError(bytes.status().message());
  tensor.size_bytes = *bytes;
  return tensor;
}

absl::Status CheckHeader(Cursor& cursor) {
  const uint32_t magic = cursor.Number<uint32_t>("the magic");
  constexpr uint32_t kMagic = 0x46554747;
  if (cursor.status().ok() && magic != kMagic) return absl::DataLossError("is no GGUF file");
  const uint32_t version = cursor.Number<uint32_t>("the version");
  QD_RETURN_IF_ERROR(cursor.status());
  if ((version & 0xffff) == 0) {
    return absl::UnimplementedError("is a big-endian GGUF file; only little-endian ones are read");
  }
  if (version < kOldestVersion || version > kVersion) {
    return absl::UnimplementedError(
        absl::StrCat("is a GGUF file of version ", version, "; versions 2 and 3 are read"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Alignment(const GgufMetadata& metadata) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  const int64_t* value = found->second.integer();
  const bool power = value != nullptr && *value > 0 && (*value & (*value - 1)) == 0;
  if (power && *value <= kAlignmentMax) return *value;
  return absl::DataLossError(
      absl::StrCat("general.alignment must be a power of two up to ", kAlignmentMax,
                   value == nullptr ? "" : absl::StrCat(" but is ", *value)));
}

int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Places cover the data one after the other, with no more between them than alignment explains.
absl::Status CheckPlaces(const std::vector<PlacedTensor>& tensors, int64_t alignment,
                         int64_t data_bytes) {
  std::vector<const PlacedTensor*> sorted;
  for (const PlacedTensor& tensor : tensors) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(), [](const PlacedTensor* a, const PlacedTensor* b) {
    return std::tie(a->offset, a->info.name) < std::tie(b->offset, b->info.name);
  });
  int64_t end = 0;
  for (const PlacedTensor* tensor : sorted) {
    const auto damaged = [&](absl::string_view what) {
      return absl::DataLossError(absl::StrCat("tensor ", Quoted(tensor->info.name),
                                              " begins at byte ", tensor->offset, " of the data, ",
                                              what));
    };
    if (tensor->offset > static_cast<uint64_t>(data_bytes) ||
        tensor->size_bytes > data_bytes - static_cast<int64_t>(tensor->offset)) {
      return damaged(absl::StrCat("has ", tensor->size_bytes, " bytes, but the data only ",
                                  data_bytes, "; the file is cut off or damaged"));
    }
    const int64_t begin = static_cast<int64_t>(tensor->offset);
    if (begin % alignment != 0) {
      return damaged(absl::StrCat("which is no multiple of the alignment ", alignment));
    }
    if (begin < end) return damaged(absl::StrCat("within another tensor, which ends at ", end));
    if (begin > RoundUp(end, alignment)) {
      return damaged(absl::StrCat("after a hole from ", end));
    }
    end = begin + tensor->size_bytes;
  }
  if (data_bytes - end < alignment) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(data_bytes - end, " bytes after the last tensor belong to none of them"));
}

absl::Status CheckNotSplit(const GgufMetadata& metadata) {
  const auto found = metadata.find("split.count");
  if (found == metadata.end()) return absl::OkStatus();
  const int64_t* count = found->second.integer();
  if (count != nullptr && *count <= 1) return absl::OkStatus();
  return absl::UnimplementedError(
      "is one part of a split model; join the parts with llama.cpp's llama-gguf-split --merge");
}

}  // namespace

absl::StatusOr<int64_t> GgufTensorBytes(const GgufTensorInfo& tensor) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Quoted(tensor.name), " of shape ", ShapeText(tensor.shape), why));
  };
  const absl::StatusOr<int64_t> elements = ElementCount(tensor.shape);
  if (!elements.ok()) return refuse(" has more elements than 63 bits can count");
  const kernels::GgufBlock* block = kernels::FindGgufBlock(tensor.type);
  if (block == nullptr) return refuse(" has an unknown type");
  const int64_t columns = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (columns % block->weights != 0) {
    return refuse(absl::StrCat(": ", columns, " columns are no multiple of the ", block->weights,
                               " weights that a block of ", std::string(block->name), " holds"));
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(*elements / block->weights, block->bytes, &bytes)) {
    return refuse(" has more bytes than 63 bits can count");
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  std::unique_ptr<GgufFile> file(new GgufFile());
  QD_ASSIGN_OR_RETURN(file->file_, MappedFile::Open(path));
  const absl::Span<const uint8_t> bytes = file->file_.bytes();
  Cursor cursor(bytes);
  QD_RETURN_IF_ERROR(CheckHeader(cursor), path);
  const uint64_t tensor_count = cursor.Number<uint64_t>("the number of tensors");
  const uint64_t metadata_count = cursor.Number<uint64_t>("the number of metadata");
  if (tensor_count > static_cast<uint64_t>(kTensorsPerFileMax) || metadata_count > kMetadataMax) {
    cursor.Fail(absl::StrCat("announces ", tensor_count, " tensors and ", metadata_count,
                             " metadata; at most ", kTensorsPerFileMax, " and ", kMetadataMax,
                             " are allowed"));
  }
  QD_RETURN_IF_ERROR(cursor.status(), path);
  QD_RETURN_IF_ERROR(ReadMetadata(cursor, metadata_count, &file->metadata_), path);
  QD_RETURN_IF_ERROR(CheckNotSplit(file->metadata_), path);
  std::vector<PlacedTensor> tensors;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    QD_ASSIGN_OR_RETURN(PlacedTensor tensor, ReadTensor(cursor, i), path);
    tensors.push_back(std::move(tensor));
  }
  QD_ASSIGN_OR_RETURN(const int64_t alignment, Alignment(file->metadata_), path);
  const int64_t data_begin = RoundUp(static_cast<int64_t>(cursor.at()), alignment);
  const int64_t data_bytes = std::max(int64_t{0}, file->size_bytes() - data_begin);
  QD_RETURN_IF_ERROR(CheckPlaces(tensors, alignment, data_bytes), path);
  for (PlacedTensor& tensor : tensors) {
    file->names_.push_back(tensor.info.name);
    const size_t begin = static_cast<size_t>(data_begin) + tensor.offset;
    const bool inserted =
        file->tensors_
            .emplace(tensor.info.name,
                     GgufTensorView{tensor.info.type, std::move(tensor.info.shape),
                                    bytes.subspan(begin, static_cast<size_t>(tensor.size_bytes))})
            .second;
    if (!inserted) {
      return absl::DataLossError(
          absl::StrCat(path, ": tensor ", Quoted(tensor.info.name), " appears twice"));
    }
  }
  return file;
}

const GgufTensorView* GgufFile::Find(absl::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const GgufValue* GgufFile::Value(absl::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

}  // namespace quantd::engine
