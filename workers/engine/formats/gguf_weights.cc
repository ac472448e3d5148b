// Dense weights out of a GGUF file: blocks decoded, paired rows put back in Hugging Face's order.
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/gguf_model.h"
#include "workers/engine/formats/gguf_format.h"
#include "workers/engine/methods/gguf_blocks.h"
#include "workers/engine/models/weights.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

class GgufWeights : public WeightSource {
 public:
  GgufWeights(std::shared_ptr<const Checkpoint> checkpoint, const GgufArchitecture& row)
      : checkpoint_(std::move(checkpoint)), plain_(checkpoint_), row_(row) {}

  bool Has(absl::string_view name) const override {
    return plain_.Has(name) || !Stored(name).name.empty();
  }

  absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const override {
    const Blocks blocks = Stored(name);
    if (blocks.name.empty()) return plain_.Shape(name);
    QD_ASSIGN_OR_RETURN(const TensorView view, checkpoint_->Find(blocks.name));
    const BlockEncoding& encoding = *blocks.encoding;
    return std::vector<int64_t>{view.shape[0],
                                view.shape[1] / encoding.block_bytes * encoding.block_weights};
  }

  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override {
    const Blocks blocks = Stored(name);
    at::Tensor weight;
    if (blocks.name.empty()) {
      QD_ASSIGN_OR_RETURN(weight, plain_.Read(name));
    } else {
      const auto lookup = [&](absl::string_view tensor) { return checkpoint_->Find(tensor); };
      QD_ASSIGN_OR_RETURN(const QuantizedWeight linear,
                          GgufFormat()->Unpack({}, Module(name), lookup));
      QD_ASSIGN_OR_RETURN(weight, Dequantize(linear, at::kFloat));
      checkpoint_->ReleasePages(blocks.name);
    }
    const absl::StatusOr<GgufPlace> place = PlaceInGguf(row_, Module(name), "weight");
    if (!place.ok()) return weight;
    return TorchCall(absl::StrCat("reading ", name), [&]() -> absl::StatusOr<at::Tensor> {
      if (place->plus_one) return weight.to(at::kFloat) - 1;
      if (place->paired_rows) return Unpair(name, weight);
      return weight;
    });
  }

  void Release(absl::string_view name) const override {
    const Blocks blocks = Stored(name);
    plain_.Release(blocks.name.empty() ? std::string(name) : blocks.name);
  }

  std::string Where(absl::string_view name) const override { return checkpoint_->gguf()->path(); }

 private:
  struct Blocks {
    std::string name;  // Of the tensor; empty: `name` is plain numbers, or not there.
    const BlockEncoding* encoding = nullptr;
  };

  static std::string Module(absl::string_view name) {
    return std::string(name.substr(0, name.rfind('.')));
  }

  absl::StatusOr<at::Tensor> Unpair(absl::string_view name, const at::Tensor& weight) const {
    const int64_t head_dim = checkpoint_->config().head_dim;
    const int64_t rows = weight.size(0);
    if (rows % head_dim != 0) {
      return absl::DataLossError(absl::StrCat(Where(name), ": ", name, " has ", rows,
                                              " rows, no multiple of head_dim ", head_dim));
    }
    const at::Tensor pairs =
        weight.reshape({rows / head_dim, head_dim / 2, 2, weight.numel() / rows});
    return pairs.transpose(1, 2).reshape(weight.sizes()).contiguous();
  }

  Blocks Stored(absl::string_view name) const {
    if (plain_.Has(name)) return {};
    for (const BlockEncoding& encoding : GgufEncodings()) {
      std::string stored = absl::StrCat(Module(name), ".", kGgufBlocksKind, encoding.name);
      if (checkpoint_->Has(stored)) return {std::move(stored), &encoding};
    }
    return {};
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  CheckpointWeights plain_;
  const GgufArchitecture& row_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WeightSource>> OpenGgufWeights(
    std::shared_ptr<const Checkpoint> checkpoint) {
  if (checkpoint->gguf() == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        checkpoint->folder(), "/config.json says quant_method gguf, but there is no GGUF file"));
  }
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(*checkpoint->gguf()));
  return std::make_unique<GgufWeights>(std::move(checkpoint), *row);
}

}  // namespace quantd::engine
