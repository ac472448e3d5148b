// The writer: the header goes out first, so that each tensor's place is known and any order of
// writing will do.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/header_json.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {
namespace {

// Data begins at a multiple of the widest dtype, so that tensors sorted by width are all aligned.
constexpr size_t kAlignmentBytes = 8;

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

  QD_ASSIGN_OR_RETURN(writer->file_, PartialFile::Create(path, writer->file_bytes_));
  QD_RETURN_IF_ERROR(writer->file_.Write(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(start.data()), start.size()), 0));
  return writer;
}

absl::Status SafetensorsWriter::Write(absl::string_view name, absl::Span<const uint8_t> bytes) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("writing ", path_, ": tensor ", Quoted(name), " ", why));
  };
  if (!file_.open()) return refuse("comes after Finish");
  const auto found = slots_.find(name);
  if (found == slots_.end()) return refuse("was not announced");
  Slot& slot = found->second;
  if (slot.written) return refuse("was written before");
  if (static_cast<int64_t>(bytes.size()) != slot.size_bytes) {
    return refuse(
        absl::StrCat("has ", bytes.size(), " bytes but was announced with ", slot.size_bytes));
  }
  QD_RETURN_IF_ERROR(file_.Write(bytes, slot.offset));
  slot.written = true;
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (!file_.open()) {
    return absl::FailedPreconditionError(absl::StrCat("writing ", path_, ": finished before"));
  }
  for (const auto& [name, slot] : slots_) {
    if (!slot.written) {
      return absl::FailedPreconditionError(absl::StrCat(
          "writing ", path_, ": tensor ", Quoted(name), " was announced but never written"));
    }
  }
  return file_.Finish();
}

}  // namespace quantd::engine
