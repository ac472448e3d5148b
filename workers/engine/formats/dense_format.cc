// P.weight as float16: three bits more of precision than bfloat16, and decoded weights are small.
// A folder of these formats is a plain checkpoint, so there is nothing of their own to open.
#include "workers/engine/formats/dense_format.h"

#include <ATen/ops/isfinite.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "kernels/half.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/shards.h"
#include "workers/engine/checkpoint/torch_file.h"
#include "workers/engine/models/weights.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

void DecodeHalves(const uint8_t* bytes, int64_t count, float* weights) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, bytes + 2 * i, sizeof half);
    weights[i] = kernels::HalfToFloat(half);
  }
}

constexpr BlockEncoding kHalves = {
    .name = "f16", .bits = 16, .block_weights = 1, .block_bytes = 2, .decode = DecodeHalves};

class DenseFormat : public Format {
 public:
  explicit DenseFormat(FormatInfo info) : info_(std::move(info)) {}
  const FormatInfo& Info() const override { return info_; }

  absl::Status Supports(const LinearScheme& scheme) const override { return absl::OkStatus(); }

  std::vector<TensorInfo> Describe(const LinearScheme& scheme) const override {
    return {{scheme.module + ".weight", DType::kF16, {scheme.outputs, scheme.inputs}}};
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack(absl::string_view module,
                                                const QuantizedWeight& weight) const override {
    QD_RETURN_IF_ERROR(Check(weight), module);
    QD_ASSIGN_OR_RETURN(const at::Tensor dense, Dequantize(weight, at::kHalf), module);
    return TorchCall(
        absl::StrCat("packing ", module), [&]() -> absl::StatusOr<std::vector<NamedTensor>> {
          if (!at::isfinite(dense).all().item<bool>()) {
            return absl::InvalidArgumentError(
                absl::StrCat(module, ".weight has numbers beyond float16's 65504, which format ",
                             info_.name, " cannot hold; skip the module"));
          }
          return std::vector<NamedTensor>{{absl::StrCat(module, ".weight"), dense.contiguous()}};
        });
  }

  absl::StatusOr<QuantizedWeight> Unpack(const nlohmann::json& configuration,
                                         absl::string_view module,
                                         const TensorLookup& lookup) const override {
    const std::string name = absl::StrCat(module, ".weight");
    QD_ASSIGN_OR_RETURN(const TensorView view, lookup(name));
    if (view.dtype != DType::kF16 || view.shape.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat(name, " is ", DTypeName(view.dtype), " ",
                                                     ShapeText(view.shape),
                                                     " instead of F16 [outputs, inputs]"));
    }
    return TorchCall(absl::StrCat("unpacking ", module), [&]() -> absl::StatusOr<QuantizedWeight> {
      BlockLinear linear = {
          .encoding = &kHalves,
          .bytes = at::empty({view.shape[0], view.shape[1] * kHalves.block_bytes}, at::kByte)};
      std::memcpy(linear.bytes.mutable_data_ptr<uint8_t>(), view.bytes.data(), view.bytes.size());
      return linear;
    });
  }

  nlohmann::json Configuration(const ConfigRequest& request) const override { return nullptr; }
  bool Recognizes(const nlohmann::json& configuration) const override { return false; }

  absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(
      std::shared_ptr<const Checkpoint> checkpoint) const override {
    return std::make_unique<CheckpointWeights>(std::move(checkpoint));
  }

 private:
  const FormatInfo info_;
};

class PytorchFormatImpl : public DenseFormat {
 public:
  using DenseFormat::DenseFormat;

  absl::StatusOr<WrittenModel> WriteModel(ModelReader& model,
                                          const std::string& folder) const override {
    WrittenModel written;
    const std::vector<Shard> shards = PlanShards(model.tensors(), model.shard_bytes(), kTorchNames);
    for (const Shard& shard : shards) {
      QD_RETURN_IF_ERROR(WriteShard(model, folder, shard), "writing ", shard.file_name);
      written.files.push_back({shard.file_name, "model"});
    }
    if (shards.size() > 1) {
      QD_RETURN_IF_ERROR(WriteShardIndex(folder, shards, kTorchNames));
      written.files.push_back({kTorchIndexFileName, "model"});
    }
    QD_RETURN_IF_ERROR(
        WriteFileAtomic(absl::StrCat(folder, "/config.json"), model.config_json().dump(2) + "\n"));
    written.files.push_back({"config.json", "model"});
    QD_RETURN_IF_ERROR(CopyCompanionFiles(model.original(), {}, folder, written.files));
    QD_ASSIGN_OR_RETURN(const auto output, Checkpoint::Open(folder),
                        "reading back what was written");
    written.tensor_bytes = output->total_bytes();
    written.digest = output->Digest();
    return written;
  }

 private:
  static absl::Status WriteShard(ModelReader& model, const std::string& folder,
                                 const Shard& shard) {
    QD_ASSIGN_OR_RETURN(auto writer, TorchWriter::Create(absl::StrCat(folder, "/", shard.file_name),
                                                         shard.tensors));
    for (const TensorInfo& info : shard.tensors) {
      QD_RETURN_IF_ERROR(model.Read(
          info, [&](absl::Span<const uint8_t> bytes) { return writer->Write(info.name, bytes); }));
    }
    return writer->Finish();
  }
};

}  // namespace

const Format* HfFormat() {
  static const DenseFormat format(
      {.name = "hf",
       .summary = "Dense float16 weights in safetensors: the method's quality, nobody's speed",
       .loaders = {"everything that loads the original"}});
  return &format;
}

const Format* PytorchFormat() {
  static const PytorchFormatImpl format(
      {.name = "pytorch",
       .summary = "Dense float16 weights in pytorch_model.bin",
       .loaders = {"torch.load(weights_only=True)", "transformers"}});
  return &format;
}

}  // namespace quantd::engine
