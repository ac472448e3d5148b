// See assemble.h.
#include "workers/engine/quantize/assemble.h"

#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/shards.h"

namespace quantd::engine {
namespace {

constexpr int64_t kCompanionBytesMax = int64_t{256}
                                       << 20;  // A tokenizer is tens of megabytes at most.

// Finds an output tensor's bytes: in the unit that made it, or in the original model.
class TensorFinder {
 public:
  TensorFinder(const QuantizePlan& plan, const WorkFolder& work) : plan_(plan), work_(work) {
    for (int64_t unit = 0; unit < plan.units(); ++unit) {
      for (const PlannedLinear* linear : plan.UnitLinears(unit)) {
        for (const TensorInfo& info : plan.format->Describe(linear->Scheme()))
          units_[info.name] = unit;
      }
    }
  }

  absl::Status Copy(SafetensorsWriter& writer, const TensorInfo& info) {
    const auto found = units_.find(info.name);
    if (found == units_.end()) {
      QD_ASSIGN_OR_RETURN(const TensorView view, plan_.checkpoint->Find(info.name));
      QD_RETURN_IF_ERROR(writer.Write(info.name, view.bytes));
      plan_.checkpoint->ReleasePages(info.name);
      return absl::OkStatus();
    }
    if (file_ == nullptr || open_unit_ != found->second) {
      QD_ASSIGN_OR_RETURN(file_, work_.OpenUnit(found->second));
      open_unit_ = found->second;
    }
    const TensorView* view = file_->Find(info.name);
    if (view == nullptr || view->dtype != info.dtype || view->shape != info.shape) {
      return absl::DataLossError(absl::StrCat(file_->path(), " holds no ", info.name, " of shape ",
                                              ShapeText(info.shape), "; delete the work folder"));
    }
    QD_RETURN_IF_ERROR(writer.Write(info.name, view->bytes));
    file_->ReleasePages(view->bytes);
    return absl::OkStatus();
  }

 private:
  const QuantizePlan& plan_;
  const WorkFolder& work_;
  std::map<std::string, int64_t> units_;
  std::unique_ptr<SafetensorsFile> file_;
  int64_t open_unit_ = -1;
};

std::string Card(const nlohmann::json& metadata) {
  const auto text = [&](const char* name) {
    const nlohmann::json& value = metadata.at(name);
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  return absl::StrCat(
      "# Quantized model\n\n`", text("model"), "` quantized with ", text("method"), " to ",
      text("bits"), " bits (group size ", text("group_size"), "), format ", text("format"), ": ",
      text("size_before_mb"), " MB became ", text("size_after_mb"), " MB.\n\n",
      "`quantization_metadata.json` records how. The licence is that of the original model.\n\n",
      "```python\nfrom transformers import AutoModelForCausalLM\n",
      "model = AutoModelForCausalLM.from_pretrained(\".\")\n```\n");
}

}  // namespace

absl::StatusOr<std::vector<OutputFile>> WriteModel(JobContext& context, const QuantizePlan& plan,
                                                   const WorkFolder& work, int64_t shard_bytes) {
  const std::string& folder = context.output_dir;
  std::vector<OutputFile> files;
  const std::vector<Shard> shards = PlanShards(plan.output, shard_bytes);
  TensorFinder finder(plan, work);
  int64_t written = 0;
  for (const Shard& shard : shards) {
    QD_ASSIGN_OR_RETURN(
        auto writer,
        SafetensorsWriter::Create(absl::StrCat(folder, "/", shard.file_name), shard.tensors));
    for (const TensorInfo& info : shard.tensors) {
      QD_RETURN_IF_ERROR(context.cancel.Check());
      QD_RETURN_IF_ERROR(finder.Copy(*writer, info), "writing ", shard.file_name);
      context.events.Progress({.phase = "write",
                               .done = ++written,
                               .total = static_cast<int64_t>(plan.output.size()),
                               .unit = "tensor"});
    }
    QD_RETURN_IF_ERROR(writer->Finish(), "writing ", shard.file_name);
    files.push_back({shard.file_name, "model"});
  }
  if (shards.size() > 1) {
    QD_RETURN_IF_ERROR(WriteShardIndex(folder, shards));
    files.push_back({kIndexFileName, "model"});
  }
  nlohmann::json config = plan.checkpoint->raw_config();
  config["quantization_config"] = plan.configuration;
  QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(folder, "/config.json"), config.dump(2) + "\n"));
  QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(folder, "/quantize_config.json"),
                                     plan.configuration.dump(2) + "\n"));
  files.push_back({"config.json", "model"});
  files.push_back({"quantize_config.json", "model"});
  // Ours say more than the original's.
  const std::set<std::string> own = {"README.md", "quantize_config.json", kMetadataFile};
  for (const std::string& name : plan.checkpoint->CompanionFiles()) {
    if (own.contains(name)) continue;
    QD_ASSIGN_OR_RETURN(
        const std::string bytes,
        ReadFile(absl::StrCat(plan.checkpoint->folder(), "/", name), kCompanionBytesMax));
    QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(folder, "/", name), bytes));
    files.push_back({name, "model"});
  }
  return files;
}

absl::StatusOr<std::vector<OutputFile>> WriteRecords(const std::string& folder,
                                                     const nlohmann::json& metadata) {
  QD_RETURN_IF_ERROR(
      WriteFileAtomic(absl::StrCat(folder, "/", kMetadataFile), metadata.dump(2) + "\n"));
  QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(folder, "/README.md"), Card(metadata)));
  return std::vector<OutputFile>{{kMetadataFile, "metadata"}, {"README.md", "metadata"}};
}

}  // namespace quantd::engine
