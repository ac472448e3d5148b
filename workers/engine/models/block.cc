// See block.h.
#include "workers/engine/models/block.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

int64_t Bytes(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
}

absl::Status Replace(absl::string_view name, const at::Tensor& value, at::Tensor& target) {
  if (value.sizes() != target.sizes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the weight of ", name, " has the shape ", ShapeText(target.sizes().vec()),
                     "; the new one has ", ShapeText(value.sizes().vec())));
  }
  QD_ASSIGN_OR_RETURN(target, TorchCall(absl::StrCat("replacing ", name), [&] {
                        return value.to(target.device(), target.scalar_type(),
                                        /*non_blocking=*/false, /*copy=*/true);
                      }));
  return absl::OkStatus();
}

}  // namespace

Linear& Block::linear(absl::string_view module) {
  const auto found = modules_.find(module);
  if (found == modules_.end()) {
    CheckFailed(__FILE__, __LINE__, "module is a linear of the block", module);
  }
  return found->second;
}

const Linear& Block::linear(absl::string_view module) const {
  return const_cast<Block*>(this)->linear(module);
}

absl::Status Block::SetWeight(absl::string_view module, const at::Tensor& weight) {
  return Replace(module, weight, linear(module).weight);
}

absl::Status Block::SetTensor(absl::string_view name, const at::Tensor& value) {
  absl::string_view module = name;
  const bool is_bias = absl::ConsumeSuffix(&module, ".bias");
  if (!is_bias) absl::ConsumeSuffix(&module, ".weight");
  const auto found = modules_.find(module);
  if (found == modules_.end() || (is_bias && !found->second.bias.defined())) {
    return absl::NotFoundError(absl::StrCat("block ", layer_, " has no tensor ", name));
  }
  return Replace(name, value, is_bias ? found->second.bias : found->second.weight);
}

int64_t Block::size_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, module] : modules_) {
    bytes += Bytes(module.weight) + Bytes(module.bias);
    if (module.packed != nullptr) bytes += module.packed->size_bytes();
  }
  return bytes;
}

void Block::CountPacked(std::map<std::string, int64_t>& counts) const {
  for (const auto& [name, module] : modules_) {
    if (module.packed != nullptr) ++counts[std::string(module.packed->kernel())];
  }
}

}  // namespace quantd::engine
