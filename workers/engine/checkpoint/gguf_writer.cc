// The writer: the header goes out first, so that each tensor's place is known and any order of
// writing will do.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/gguf.h"
#include "workers/engine/checkpoint/header_json.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

constexpr int64_t kAlignment = 32;    // What readers assume without "general.alignment".
constexpr size_t kNameBytesMax = 63;  // ggml keeps names in 64 bytes.

template <typename T>
void Put(T value, std::string* out) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out->append(bytes, sizeof value);
}

void PutString(absl::string_view text, std::string* out) {
  Put<uint64_t>(text.size(), out);
  absl::StrAppend(out, text);
}

void PutInteger(GgufValueType type, int64_t value, std::string* out) {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool:
      return Put(static_cast<uint8_t>(value), out);
    case GgufValueType::kU16:
    case GgufValueType::kI16:
      return Put(static_cast<uint16_t>(value), out);
    case GgufValueType::kU64:
    case GgufValueType::kI64:
      return Put(static_cast<uint64_t>(value), out);
    default:
      return Put(static_cast<uint32_t>(value), out);
  }
}

void PutFraction(GgufValueType type, double value, std::string* out) {
  if (type == GgufValueType::kF64) return Put(value, out);
  Put(static_cast<float>(value), out);
}

void PutValue(const GgufValue& value, std::string* out) {
  const auto put_all = [&](const auto& values, const auto& put) {
    Put(static_cast<uint32_t>(GgufValueType::kArray), out);
    Put(static_cast<uint32_t>(value.type), out);
    Put<uint64_t>(values.size(), out);
    for (const auto& element : values) put(element);
  };
  if (const auto* texts = value.texts()) {
    return put_all(*texts, [&](const std::string& text) { PutString(text, out); });
  }
  if (const auto* numbers = value.integers()) {
    return put_all(*numbers, [&](int64_t number) { PutInteger(value.type, number, out); });
  }
  if (const auto* numbers = value.fractions()) {
    return put_all(*numbers, [&](double number) { PutFraction(value.type, number, out); });
  }
  Put(static_cast<uint32_t>(value.type), out);
  if (const auto* text = value.text()) return PutString(*text, out);
  if (const auto* number = value.fraction()) return PutFraction(value.type, *number, out);
  PutInteger(value.type, *value.integer(), out);
}

int64_t Aligned(int64_t value) { return (value + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

absl::StatusOr<std::unique_ptr<GgufWriter>> GgufWriter::Create(
    const std::string& path, const GgufMetadata& metadata, std::vector<GgufTensorInfo> tensors) {
  std::unique_ptr<GgufWriter> writer(new GgufWriter());
  writer->path_ = path;
  std::string header = "GGUF";
  Put<uint32_t>(3, &header);
  Put<uint64_t>(tensors.size(), &header);
  Put<uint64_t>(metadata.size(), &header);
  for (const auto& [key, value] : metadata) {
    PutString(key, &header);
    PutValue(value, &header);
  }
  int64_t data_bytes = 0;
  for (const GgufTensorInfo& tensor : tensors) {
    QD_RETURN_IF_ERROR(CheckTensorName(tensor.name), "writing ", path);
    if (tensor.name.size() > kNameBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat(
          "writing ", path, ": tensor ", Quoted(tensor.name), " has a name of more than ",
          kNameBytesMax, " bytes, which no reader takes"));
    }
    QD_ASSIGN_OR_RETURN(const int64_t bytes, GgufTensorBytes(tensor), "writing ", path);
    const Slot slot = {.offset = data_bytes, .size_bytes = bytes};
    if (!writer->slots_.try_emplace(tensor.name, slot).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("writing ", path, ": tensor ", Quoted(tensor.name), " is announced twice"));
    }
    PutString(tensor.name, &header);
    Put(static_cast<uint32_t>(tensor.shape.size()), &header);
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) {
      Put(static_cast<uint64_t>(*size), &header);
    }
    Put(static_cast<uint32_t>(tensor.type), &header);
    Put(static_cast<uint64_t>(data_bytes), &header);
    data_bytes = Aligned(data_bytes + bytes);
  }
  header.resize(static_cast<size_t>(Aligned(static_cast<int64_t>(header.size()))), '\0');
  for (auto& [name, slot] : writer->slots_) slot.offset += static_cast<int64_t>(header.size());
  writer->file_bytes_ = static_cast<int64_t>(header.size()) + data_bytes;
  QD_ASSIGN_OR_RETURN(writer->file_, PartialFile::Create(path, writer->file_bytes_));
  QD_RETURN_IF_ERROR(writer->file_.Write(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(header.data()), header.size()), 0));
  return writer;
}

absl::Status GgufWriter::Append(absl::string_view name, absl::Span<const uint8_t> bytes) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("writing ", path_, ": tensor ", Quoted(name), " ", why));
  };
  if (!file_.open()) return refuse("comes after Finish");
  const auto found = slots_.find(name);
  if (found == slots_.end()) return refuse("was not announced");
  Slot& slot = found->second;
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (size > slot.size_bytes - slot.written) {
    return refuse(absl::StrCat("has more bytes than the ", slot.size_bytes, " announced"));
  }
  QD_RETURN_IF_ERROR(file_.Write(bytes, slot.offset + slot.written));
  slot.written += size;
  return absl::OkStatus();
}

absl::Status GgufWriter::Finish() {
  if (!file_.open()) {
    return absl::FailedPreconditionError(absl::StrCat("writing ", path_, ": finished before"));
  }
  for (const auto& [name, slot] : slots_) {
    if (slot.written != slot.size_bytes) {
      return absl::FailedPreconditionError(absl::StrCat("writing ", path_, ": tensor ",
                                                        Quoted(name), " has ", slot.written,
                                                        " of its ", slot.size_bytes, " bytes"));
    }
  }
  return file_.Finish();
}

}  // namespace quantd::engine
