// See assemble.h.
#include "workers/engine/quantize/assemble.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

// Output tensors out of the unit that made them, or out of the plan's source.
class UnitReader : public ModelReader {
 public:
  static absl::StatusOr<std::unique_ptr<UnitReader>> Create(JobContext& context,
                                                            const QuantizePlan& plan,
                                                            const WorkFolder& work,
                                                            int64_t shard_bytes) {
    std::unique_ptr<UnitReader> reader(new UnitReader(context, plan, work, shard_bytes));
    for (int64_t unit = 0; unit < plan.units(); ++unit) {
      // What the linears became, and the dense tensors that the method edited.
      for (const PlannedLinear* linear : plan.UnitLinears(unit)) {
        for (const TensorInfo& info : plan.format->Describe(linear->scheme)) {
          reader->units_[info.name] = unit;
        }
      }
      QD_ASSIGN_OR_RETURN(const auto file, work.OpenUnit(unit));
      for (const std::string& name : file->names()) reader->units_[name] = unit;
    }
    return reader;
  }

  const nlohmann::json& config_json() const override { return plan_.config_json; }
  const ModelConfig& config() const override { return plan_.config; }
  const nlohmann::json& configuration() const override { return plan_.configuration; }
  const Checkpoint& original() const override { return *plan_.checkpoint; }
  const std::vector<TensorInfo>& tensors() const override { return plan_.output; }
  int64_t shard_bytes() const override { return shard_bytes_; }

  absl::Status Read(
      const TensorInfo& tensor,
      const std::function<absl::Status(absl::Span<const uint8_t> bytes)>& use) override {
    QD_RETURN_IF_ERROR(context_.cancel.Check());
    const auto found = units_.find(tensor.name);
    QD_RETURN_IF_ERROR(found == units_.end() ? FromSource(tensor, use)
                                             : FromUnit(found->second, tensor, use));
    context_.events.Progress({.phase = "write",
                              .done = ++done_,
                              .total = static_cast<int64_t>(plan_.output.size()),
                              .unit = "tensor"});
    return absl::OkStatus();
  }

 private:
  using Use = std::function<absl::Status(absl::Span<const uint8_t>)>;

  UnitReader(JobContext& context, const QuantizePlan& plan, const WorkFolder& work,
             int64_t shard_bytes)
      : context_(context), plan_(plan), work_(work), shard_bytes_(shard_bytes) {}

  absl::Status FromSource(const TensorInfo& info, const Use& use) {
    QD_ASSIGN_OR_RETURN(const at::Tensor read, plan_.source->Read(info.name));
    QD_RETURN_IF_ERROR(UseStored(info, read, use));
    plan_.source->Release(info.name);
    return absl::OkStatus();
  }

  // `tensor` is as it is computed with; the file may hold it transposed.
  absl::Status UseStored(const TensorInfo& info, const at::Tensor& tensor, const Use& use) {
    QD_ASSIGN_OR_RETURN(const at::Tensor stored,
                        TorchCall(absl::StrCat("storing ", info.name), [&] {
                          const at::Tensor rounded = tensor.to(ToScalarType(info.dtype));
                          const bool turn = IsStoredTransposed(*plan_.row, info);
                          return (turn ? rounded.t() : rounded).contiguous();
                        }));
    return use(TensorBytes(stored));
  }

  absl::Status FromUnit(int64_t unit, const TensorInfo& info, const Use& use) {
    if (file_ == nullptr || open_unit_ != unit) {
      QD_ASSIGN_OR_RETURN(file_, work_.OpenUnit(unit));
      open_unit_ = unit;
    }
    const TensorView* view = file_->Find(info.name);
    if (view == nullptr || view->dtype != info.dtype ||
        view->shape != StoredShape(*plan_.row, info)) {
      return absl::DataLossError(absl::StrCat(file_->path(), " holds no ", info.name, " of shape ",
                                              ShapeText(info.shape), "; delete the work folder"));
    }
    if (IsStoredTransposed(*plan_.row, info)) {
      QD_ASSIGN_OR_RETURN(const at::Tensor computed, ViewTensor(*view));
      QD_RETURN_IF_ERROR(UseStored(info, computed, use));
    } else {
      QD_RETURN_IF_ERROR(use(view->bytes));
    }
    file_->ReleasePages(view->bytes);
    return absl::OkStatus();
  }

  JobContext& context_;
  const QuantizePlan& plan_;
  const WorkFolder& work_;
  const int64_t shard_bytes_;
  std::map<std::string, int64_t> units_;
  std::unique_ptr<SafetensorsFile> file_;
  int64_t open_unit_ = -1;
  int64_t done_ = 0;
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
      metadata.at("format") == "gguf"
          ? "```sh\nllama-cli -m model.gguf\nollama create NAME -f Modelfile\n```\n"
          : "```python\nfrom transformers import AutoModelForCausalLM\n"
            "model = AutoModelForCausalLM.from_pretrained(\".\")\n```\n");
}

}  // namespace

absl::StatusOr<WrittenModel> WriteModel(JobContext& context, const QuantizePlan& plan,
                                        const WorkFolder& work, int64_t shard_bytes) {
  QD_ASSIGN_OR_RETURN(const auto reader, UnitReader::Create(context, plan, work, shard_bytes));
  return plan.format->WriteModel(*reader, context.output_dir);
}

absl::StatusOr<std::vector<OutputFile>> WriteRecords(const std::string& folder,
                                                     const nlohmann::json& metadata) {
  QD_RETURN_IF_ERROR(
      WriteFileAtomic(absl::StrCat(folder, "/", kMetadataFile), metadata.dump(2) + "\n"));
  QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(folder, "/README.md"), Card(metadata)));
  return std::vector<OutputFile>{{kMetadataFile, "metadata"}, {"README.md", "metadata"}};
}

}  // namespace quantd::engine
