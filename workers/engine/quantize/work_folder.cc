// See work_folder.h.
#include "workers/engine/quantize/work_folder.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/fault_point.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

constexpr char kStateFile[] = "state.json";
constexpr char kBlocksFolder[] = "blocks";
constexpr char kRecordsKey[] = "quantd.records";
constexpr int kStateVersion = 1;
constexpr int64_t kStateBytesMax = int64_t{16}
                                   << 20;  // Fallbacks of every module of a large model.

// The state in `path` if it is there, readable and of this fingerprint.
absl::StatusOr<WorkState> ReadState(const std::string& path, const std::string& fingerprint) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kStateBytesMax));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("version") || json["version"] != kStateVersion) {
    return absl::DataLossError("the state file is damaged or of another version");
  }
  if (!json.contains("fingerprint") || json["fingerprint"] != fingerprint) {
    return absl::FailedPreconditionError("it belongs to another model, spec or engine version");
  }
  const auto number = [&](const char* name) {
    const auto found = json.find(name);
    return found != json.end() && found->is_number() ? found->get<double>() : 0.0;
  };
  WorkState state;
  state.units_done = static_cast<int64_t>(number("units_done"));
  state.batch_size = static_cast<int64_t>(number("batch_size"));
  state.attempts = static_cast<int>(number("attempts"));
  state.seconds = number("seconds");
  if (json.contains("fallbacks") && json["fallbacks"].is_array())
    state.fallbacks = json["fallbacks"];
  if (json.contains("notes") && json["notes"].is_object()) state.notes = json["notes"];
  if (json.contains("phase_seconds") && json["phase_seconds"].is_object()) {
    state.phase_seconds = json["phase_seconds"];
  }
  return state;
}

}  // namespace

absl::StatusOr<WorkFolder> WorkFolder::Open(const std::string& folder,
                                            const std::string& fingerprint, int64_t units) {
  WorkFolder work;
  work.folder_ = folder;
  work.fingerprint_ = fingerprint;
  const std::string path = absl::StrCat(folder, "/", kStateFile);
  const std::string blocks = absl::StrCat(folder, "/", kBlocksFolder);
  if (FileExists(path)) {
    absl::StatusOr<WorkState> state = ReadState(path, fingerprint);
    if (state.ok()) {
      work.state_ = *std::move(state);
    } else {
      LogWarning("starting anew instead of resuming",
                 {{"folder", folder}, {"reason", std::string(state.status().message())}});
      QD_RETURN_IF_ERROR(RemoveTree(blocks));
      QD_RETURN_IF_ERROR(RemoveTree(path));
    }
  }
  const int64_t claimed = std::clamp<int64_t>(work.state_.units_done, 0, units);
  work.state_.units_done = 0;
  while (work.state_.units_done < claimed) {
    const absl::Status whole = work.Records(work.state_.units_done).status();
    if (!whole.ok()) {
      LogWarning("a saved block cannot be used and is done again",
                 {{"block", work.state_.units_done}, {"reason", std::string(whole.message())}});
      break;
    }
    ++work.state_.units_done;
  }
  if (work.state_.units_done > 0) {
    LogInfo("resuming", {{"done", work.state_.units_done}, {"of", units}});
  }
  ++work.state_.attempts;
  QD_RETURN_IF_ERROR(MakeFolders(blocks));
  QD_RETURN_IF_ERROR(work.SaveState());
  return work;
}

absl::StatusOr<std::vector<std::string>> WorkFolder::Save(int64_t unit,
                                                          const std::vector<NamedTensor>& tensors,
                                                          const nlohmann::json& records) {
  std::vector<TensorInfo> infos;
  for (const NamedTensor& tensor : tensors) {
    QD_ASSIGN_OR_RETURN(TensorInfo info, DescribeTensor(tensor.name, tensor.tensor));
    infos.push_back(std::move(info));
  }
  const std::string file = UnitFile(unit);
  QD_ASSIGN_OR_RETURN(auto writer,
                      SafetensorsWriter::Create(absl::StrCat(folder_, "/", file), infos,
                                                {{kRecordsKey, records.dump()}}),
                      "saving block ", unit);
  for (const NamedTensor& tensor : tensors) {
    QD_RETURN_IF_ERROR(WriteTensor(*writer, tensor.name, tensor.tensor), "saving block ", unit);
  }
  QD_RETURN_IF_ERROR(writer->Finish(), "saving block ", unit);
  state_.units_done = unit + 1;
  FaultPoint("engine/block/written");
  QD_RETURN_IF_ERROR(SaveState());
  FaultPoint("engine/block/saved");
  return std::vector<std::string>{file, kStateFile};
}

absl::Status WorkFolder::SaveState() const {
  const nlohmann::json json = {{"version", kStateVersion},
                               {"fingerprint", fingerprint_},
                               {"units_done", state_.units_done},
                               {"batch_size", state_.batch_size},
                               {"attempts", state_.attempts},
                               {"seconds", state_.seconds},
                               {"fallbacks", state_.fallbacks},
                               {"notes", state_.notes},
                               {"phase_seconds", state_.phase_seconds}};
  return WriteFileAtomic(absl::StrCat(folder_, "/", kStateFile), json.dump(1));
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> WorkFolder::OpenUnit(int64_t unit) const {
  return SafetensorsFile::Open(absl::StrCat(folder_, "/", UnitFile(unit)));
}

absl::StatusOr<nlohmann::json> WorkFolder::Records(int64_t unit) const {
  QD_ASSIGN_OR_RETURN(const auto file, OpenUnit(unit));
  const auto found = file->metadata().find(kRecordsKey);
  nlohmann::json records;
  if (found != file->metadata().end()) {
    records = nlohmann::json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  }
  if (!records.is_array())
    return absl::DataLossError(absl::StrCat(file->path(), " has no records"));
  return records;
}

std::string WorkFolder::UnitFile(int64_t unit) const {
  return absl::StrFormat("%s/block_%04d.safetensors", kBlocksFolder, unit);
}

}  // namespace quantd::engine
