// How a model is written unless its format does it otherwise: standard shards with an index, the
// configuration where loaders look for it, and the original's companion files.
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/shards.h"
#include "workers/engine/formats/format.h"
#include "workers/engine/models/architecture.h"

namespace quantd::engine {
namespace {

constexpr int64_t kCompanionBytesMax = int64_t{256}
                                       << 20;  // A tokenizer is tens of megabytes at most.

absl::Status WriteShards(ModelReader& model, const std::string& folder,
                         std::vector<OutputFile>& files) {
  const std::vector<Shard> shards = PlanShards(model.tensors(), model.shard_bytes());
  for (const Shard& shard : shards) {
    QD_ASSIGN_OR_RETURN(
        auto writer,
        SafetensorsWriter::Create(absl::StrCat(folder, "/", shard.file_name), shard.tensors));
    for (const TensorInfo& info : shard.tensors) {
      QD_RETURN_IF_ERROR(model.Read(info,
                                    [&](absl::Span<const uint8_t> bytes) {
                                      return writer->Write(info.name, bytes);
                                    }),
                         "writing ", shard.file_name);
    }
    QD_RETURN_IF_ERROR(writer->Finish(), "writing ", shard.file_name);
    files.push_back({shard.file_name, "model"});
  }
  if (shards.size() == 1) return absl::OkStatus();
  files.push_back({kIndexFileName, "model"});
  return WriteShardIndex(folder, shards);
}

}  // namespace

absl::Status CopyCompanionFiles(const Checkpoint& original, const std::set<std::string>& own,
                                const std::string& folder, std::vector<OutputFile>& files) {
  for (const std::string& name : original.CompanionFiles()) {
    // Ours say more than the original's.
    if (own.contains(name) || name == "README.md" || name == kMetadataFile) continue;
    QD_ASSIGN_OR_RETURN(const std::string bytes,
                        ReadFile(absl::StrCat(original.folder(), "/", name), kCompanionBytesMax));
    QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(folder, "/", name), bytes));
    files.push_back({name, "model"});
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorInfo> Format::DescribeDense(const Checkpoint& checkpoint,
                                                 const ExpectedTensor& tensor) const {
  QD_ASSIGN_OR_RETURN(const TensorView view, checkpoint.Find(tensor.name));
  return TensorInfo{tensor.name, view.dtype, tensor.shape};
}

absl::StatusOr<WrittenModel> Format::WriteModel(ModelReader& model,
                                                const std::string& folder) const {
  WrittenModel written;
  QD_RETURN_IF_ERROR(WriteShards(model, folder, written.files));
  nlohmann::json config = model.config_json();
  if (!model.configuration().is_null()) config["quantization_config"] = model.configuration();
  QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(folder, "/config.json"), config.dump(2) + "\n"));
  written.files.push_back({"config.json", "model"});
  const std::string& second = Info().config_file;
  if (!second.empty()) {
    QD_RETURN_IF_ERROR(
        WriteFileAtomic(absl::StrCat(folder, "/", second), model.configuration().dump(2) + "\n"));
    written.files.push_back({second, "model"});
  }
  QD_RETURN_IF_ERROR(CopyCompanionFiles(model.original(), {second}, folder, written.files));
  QD_ASSIGN_OR_RETURN(const auto output, Checkpoint::Open(folder), "reading back what was written");
  written.tensor_bytes = output->total_bytes();
  written.digest = output->Digest();
  return written;
}

}  // namespace quantd::engine
