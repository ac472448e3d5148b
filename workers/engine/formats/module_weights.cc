// See module_weights.h.
#include "workers/engine/formats/module_weights.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/formats/packed_product.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

class ModuleWeights : public WeightSource {
 public:
  ModuleWeights(const Format& format, ModuleLayout layout,
                std::shared_ptr<const Checkpoint> checkpoint)
      : format_(format),
        layout_(std::move(layout)),
        checkpoint_(std::move(checkpoint)),
        plain_(checkpoint_),
        configuration_(checkpoint_->raw_config().at("quantization_config")) {}

  bool Has(absl::string_view name) const override {
    return plain_.Has(name) || !ModuleOf(name).empty();
  }

  absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const override {
    const std::string module = ModuleOf(name);
    return module.empty() ? plain_.Shape(name) : layout_.shape(Stored(module));
  }

  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override {
    const std::string module = ModuleOf(name);
    if (module.empty()) {
      QD_RETURN_IF_ERROR(Rotation(name).status());
      return plain_.Read(name);
    }
    QD_ASSIGN_OR_RETURN(const QuantizedWeight weight, Unpack(module));
    QD_ASSIGN_OR_RETURN(at::Tensor dense, Dequantize(weight, at::kFloat));
    Release(name);
    return dense;
  }

  absl::StatusOr<std::shared_ptr<const PackedWeight>> ReadPacked(
      absl::string_view name, at::Device device, at::ScalarType dtype) const override {
    const std::string module = ModuleOf(name);
    if (module.empty()) return nullptr;
    QD_ASSIGN_OR_RETURN(const QuantizedWeight weight, Unpack(module));
    QD_ASSIGN_OR_RETURN(auto packed, PackForProducts(weight, device, dtype), module);
    if (packed != nullptr) Release(name);
    return packed;
  }

  absl::StatusOr<DType> StoredType(absl::string_view name) const override {
    return ModuleOf(name).empty() ? plain_.StoredType(name) : DType::kF32;
  }

  InputQuantization InputRounding(absl::string_view name) const override {
    const std::string module = ModuleOf(name);
    InputQuantization input;
    if (!module.empty() && layout_.input) input = layout_.input(Stored(module));
    input.rotation = Rotation(name).value_or(0);
    return input;
  }

  std::string Where(absl::string_view name) const override {
    const std::string module = ModuleOf(name);
    for (const std::string& marker : layout_.markers) {
      const std::string tensor = absl::StrCat(module, ".", marker);
      if (!module.empty() && checkpoint_->Has(tensor)) return plain_.Where(tensor);
    }
    return plain_.Where(name);
  }

  void Release(absl::string_view name) const override {
    const std::string module = ModuleOf(name);
    if (module.empty()) return plain_.Release(name);
    for (const std::string& tensor : layout_.tensors) {
      checkpoint_->ReleasePages(absl::StrCat(module, ".", tensor));
    }
  }

 private:
  absl::StatusOr<QuantizedWeight> Unpack(const std::string& module) const {
    return format_.Unpack(configuration_, module,
                          [&](absl::string_view tensor) { return checkpoint_->Find(tensor); });
  }

  // Of the linear with the weight `name`; 0 for what is none.
  absl::StatusOr<int64_t> Rotation(absl::string_view name) const {
    absl::string_view module = name;
    if (!layout_.rotation || !absl::ConsumeSuffix(&module, ".weight")) return 0;
    QD_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, Shape(name));
    return shape.size() == 2 ? layout_.rotation(Stored(std::string(module)), shape[1]) : 0;
  }

  StoredModule Stored(const std::string& module) const {
    return {*checkpoint_, configuration_, module};
  }

  // The quantized module whose weight `name` is; empty when it is none.
  std::string ModuleOf(absl::string_view name) const {
    if (!absl::ConsumeSuffix(&name, ".weight")) return "";
    for (const std::string& marker : layout_.markers) {
      if (checkpoint_->Has(absl::StrCat(name, ".", marker))) return std::string(name);
    }
    return "";
  }

  const Format& format_;
  const ModuleLayout layout_;
  const std::shared_ptr<const Checkpoint> checkpoint_;
  const CheckpointWeights plain_;
  const nlohmann::json configuration_;
};

}  // namespace

bool StoredModule::Has(absl::string_view tensor) const {
  return checkpoint.Has(absl::StrCat(module, ".", tensor));
}

absl::StatusOr<TensorView> StoredModule::Find(absl::string_view tensor) const {
  return checkpoint.Find(absl::StrCat(module, ".", tensor));
}

std::unique_ptr<WeightSource> OpenModuleWeights(const Format& format, ModuleLayout layout,
                                                std::shared_ptr<const Checkpoint> checkpoint) {
  return std::make_unique<ModuleWeights>(format, std::move(layout), std::move(checkpoint));
}

absl::StatusOr<std::vector<int64_t>> MatrixShape(const StoredModule& module,
                                                 absl::string_view tensor) {
  QD_ASSIGN_OR_RETURN(const TensorView view, module.Find(tensor));
  if (view.shape.size() == 2) return view.shape;
  return absl::InvalidArgumentError(absl::StrCat(module.module, ".", tensor, " has shape ",
                                                 ShapeText(view.shape),
                                                 " instead of two dimensions"));
}

}  // namespace quantd::engine
