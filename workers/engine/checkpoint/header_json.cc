// A SAX reader with exactly the grammar of the format: an object of tensors {dtype, shape,
// data_offsets} and one
// "__metadata__" of strings. Anything else ends the parse at once, so depth and size need no
// separate guard.
#include "workers/engine/checkpoint/header_json.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

constexpr char kMetadata[] = "__metadata__";

class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(HeaderJson* header) : header_(header) {}
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool value) override { return Unexpected(value ? "true" : "false"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool number_float(number_float_t, const string_t& text) override { return Unexpected(text); }
  bool number_integer(number_integer_t value) override { return Unexpected(absl::StrCat(value)); }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& value) override;
  bool start_object(size_t) override;
  bool key(string_t& name) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("its header is not valid JSON at byte ", position));
  }

 private:
  enum class Place { kStart, kTop, kTensor, kMetadata, kShape, kOffsets, kEnd };
  enum class Field { kNone, kDtype, kShape, kOffsets };

  bool Fail(std::string what) {
    if (error_.empty()) error_ = std::move(what);
    return false;
  }
  bool FailTensor(absl::string_view what) {
    return Fail(absl::StrCat("tensor ", Quoted(tensor_.name), ": ", what));
  }
  bool Unexpected(absl::string_view value);
  bool TensorKey(const std::string& name);

  HeaderJson* header_;
  std::string error_;
  Place place_ = Place::kStart;
  Field field_ = Field::kNone;
  HeaderTensor tensor_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::vector<uint64_t> offsets_;
  bool has_metadata_ = false;
  std::string metadata_key_;
  absl::flat_hash_set<std::string> names_;
};

bool HeaderReader::Unexpected(absl::string_view value) {
  const std::string shown = Quoted(value);
  switch (place_) {
    case Place::kMetadata:
      return Fail(
          absl::StrCat("__metadata__ ", Quoted(metadata_key_), " must be a string but is ", shown));
    case Place::kShape:
      return FailTensor(absl::StrCat(
          "a dimension of shape must be a whole number from 0 to 2^63 - 1 but is ", shown));
    case Place::kOffsets:
      return FailTensor(
          absl::StrCat("data_offsets must be whole numbers from 0 to 2^64 - 1 but one is ", shown));
    case Place::kTensor:
      return FailTensor(field_ == Field::kDtype
                            ? absl::StrCat("dtype must be a string but is ", shown)
                            : absl::StrCat(field_ == Field::kShape ? "shape" : "data_offsets",
                                           " must be an array of whole numbers but is ", shown));
    case Place::kTop:
      return FailTensor(
          absl::StrCat("must be an object with dtype, shape and data_offsets but is ", shown));
    case Place::kStart:
    case Place::kEnd:
      break;
  }
  return Fail("its header is not a JSON object");
}

bool HeaderReader::number_unsigned(number_unsigned_t value) {
  if (place_ == Place::kOffsets) {
    if (offsets_.size() == 2) return FailTensor("data_offsets must be two numbers but are more");
    offsets_.push_back(value);
    return true;
  }
  if (place_ == Place::kShape && value <= static_cast<uint64_t>(INT64_MAX)) {
    if (tensor_.shape.size() == static_cast<size_t>(kTensorRankMax)) {
      return FailTensor(absl::StrCat("has more than ", kTensorRankMax, " dimensions"));
    }
    tensor_.shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  return Unexpected(absl::StrCat(value));
}

bool HeaderReader::string(string_t& value) {
  if (place_ == Place::kMetadata) {
    header_->metadata.emplace(std::move(metadata_key_), std::move(value));
    return true;
  }
  if (place_ != Place::kTensor || field_ != Field::kDtype) return Unexpected(value);
  const std::optional<DType> dtype = ParseDType(value);
  if (!dtype.has_value()) {
    return FailTensor(absl::StrCat("dtype ", Quoted(value), " is unknown; known: ", DTypeNames()));
  }
  tensor_.dtype = *dtype;
  has_dtype_ = true;
  return true;
}

bool HeaderReader::start_object(size_t) {
  if (place_ == Place::kStart) {
    place_ = Place::kTop;
    return true;
  }
  if (place_ != Place::kTop) return Unexpected("an object");
  place_ = tensor_.name == kMetadata ? Place::kMetadata : Place::kTensor;
  return true;
}

bool HeaderReader::key(string_t& name) {
  if (place_ == Place::kTensor) return TensorKey(name);
  if (place_ == Place::kMetadata) {
    if (header_->metadata.contains(name)) {
      return Fail(absl::StrCat("__metadata__ has the key ", Quoted(name), " twice"));
    }
    metadata_key_ = name;
    return true;
  }
  tensor_ = HeaderTensor{};
  tensor_.name = name;
  has_dtype_ = has_shape_ = has_offsets_ = false;
  field_ = Field::kNone;
  offsets_.clear();
  if (name == kMetadata) {
    if (has_metadata_) return Fail("its header has __metadata__ twice");
    has_metadata_ = true;
    return true;
  }
  if (absl::Status status = CheckTensorName(name); !status.ok()) {
    return Fail(std::string(status.message()));
  }
  if (!names_.insert(name).second) {
    return Fail(absl::StrCat("its header names tensor ", Quoted(name), " twice"));
  }
  if (names_.size() > static_cast<size_t>(kTensorsPerFileMax)) {
    return Fail(absl::StrCat("holds more than ", kTensorsPerFileMax, " tensors"));
  }
  return true;
}

bool HeaderReader::TensorKey(const std::string& name) {
  struct Known {
    absl::string_view name;
    Field field;
    bool* seen;
  };
  // dtype counts as seen with its value, which is the only string that can follow its key.
  const Known known[] = {{"dtype", Field::kDtype, &has_dtype_},
                         {"shape", Field::kShape, &has_shape_},
                         {"data_offsets", Field::kOffsets, &has_offsets_}};
  for (const Known& row : known) {
    if (row.name != name) continue;
    if (*row.seen) return FailTensor(absl::StrCat("has ", name, " twice"));
    field_ = row.field;
    return true;
  }
  return FailTensor(
      absl::StrCat("has the unknown field ", Quoted(name), "; known: dtype, shape, data_offsets"));
}

bool HeaderReader::end_object() {
  if (place_ == Place::kTop) {
    place_ = Place::kEnd;
    return true;
  }
  if (place_ == Place::kTensor) {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      return FailTensor(absl::StrCat("lacks ", !has_dtype_   ? "dtype"
                                               : !has_shape_ ? "shape"
                                                             : "data_offsets"));
    }
    tensor_.begin = offsets_[0];
    tensor_.end = offsets_[1];
    header_->tensors.push_back(std::move(tensor_));
  }
  place_ = Place::kTop;
  return true;
}

bool HeaderReader::start_array(size_t) {
  if (place_ != Place::kTensor || field_ == Field::kDtype || field_ == Field::kNone) {
    return Unexpected("an array");
  }
  place_ = field_ == Field::kShape ? Place::kShape : Place::kOffsets;
  return true;
}

bool HeaderReader::end_array() {
  if (place_ == Place::kOffsets) {
    if (offsets_.size() != 2) {
      return FailTensor(absl::StrCat("data_offsets must be two numbers but are ", offsets_.size()));
    }
    has_offsets_ = true;
  } else {
    has_shape_ = true;
  }
  place_ = Place::kTensor;
  return true;
}

}  // namespace

absl::Status CheckTensorName(absl::string_view name) {
  const auto refuse = [&](absl::string_view why) {
    return absl::DataLossError(absl::StrCat("tensor name ", Quoted(name), " ", why));
  };
  if (name.empty()) return refuse("is empty");
  if (name.size() > static_cast<size_t>(kTensorNameBytesMax)) {
    return refuse(absl::StrCat("is longer than ", kTensorNameBytesMax, " bytes"));
  }
  if (name == kMetadata) return refuse("is reserved for the header");
  if (!IsValidUtf8(name)) return refuse("is not valid UTF-8");
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return refuse("holds a control character");
    }
  }
  return absl::OkStatus();
}

absl::Status ParseHeaderJson(absl::string_view text, HeaderJson* header) {
  HeaderReader reader(header);
  if (!SaxParse(text, &reader)) {
    return absl::DataLossError(reader.error());
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
