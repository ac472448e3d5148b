// The forward pass, in transformers' order of operations and casts: norms in float32, everything
// else in the decoder's dtype.
#include "workers/engine/models/decoder.h"

#include <ATen/ops/linear.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "workers/engine/models/norm.h"
#include "workers/engine/models/online_rotation.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// A copy on the decoder's device; the source may then let go of its own.
absl::StatusOr<at::Tensor> Fetch(const WeightSource& source, const std::string& name,
                                 at::Device device, std::optional<at::ScalarType> dtype) {
  QD_ASSIGN_OR_RETURN(const at::Tensor stored, source.Read(name), "loading ", name);
  absl::StatusOr<at::Tensor> owned = TorchCall(absl::StrCat("loading ", name), [&] {
    return stored.to(device, dtype.value_or(stored.scalar_type()), /*non_blocking=*/false,
                     /*copy=*/true);
  });
  source.Release(name);
  return owned;
}

absl::Status CheckHidden(const at::Tensor& hidden, int64_t dimensions, const ModelConfig& config) {
  if ((dimensions == 0 || hidden.dim() == dimensions) && hidden.dim() > 0 &&
      hidden.size(-1) == config.hidden_size) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("hidden states have the shape ", ShapeText(hidden.sizes().vec()), ", not [",
                   dimensions == 3 ? "B, T" : "...", ", ", config.hidden_size, "]"));
}

int64_t Bytes(const Linear& layer) {
  const auto bytes = [](const at::Tensor& tensor) {
    return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
  };
  const int64_t packed = layer.packed == nullptr ? 0 : layer.packed->size_bytes();
  return bytes(layer.weight) + bytes(layer.bias) + packed;
}

// Added to `residual` where that is defined.
at::Tensor ApplyLinear(const Linear& linear, const LinearInput& input,
                       const at::Tensor& residual = {}) {
  if (linear.packed != nullptr) {
    return residual.defined() ? linear.packed->MultiplyAdd(input, linear.bias, residual)
                              : linear.packed->Multiply(input, linear.bias);
  }
  const at::Tensor output =
      at::linear(input.Rounded(linear.input), linear.weight,
                 linear.bias.defined() ? std::optional(linear.bias) : std::nullopt);
  return residual.defined() ? residual + output : output;
}

}  // namespace

absl::StatusOr<at::Tensor> LayerPass::Apply(absl::string_view module, const LinearInput& input,
                                            const at::Tensor& residual) const {
  const Linear& linear = block.linear(module);
  const int64_t rotation = linear.input.rotation;
  const LinearInput turned = rotation > 1 ? RotateOnline(input.values(), rotation) : input;
  if (hook != nullptr) QD_RETURN_IF_ERROR(hook->OnInput(module, turned.values()));
  return ApplyLinear(linear, turned, residual);
}

absl::StatusOr<LinearInput> LayerPass::At(
    BlockPoint point, absl::FunctionRef<absl::StatusOr<LinearInput>()> compute) const {
  if (memory == nullptr) return compute();
  QD_ASSIGN_OR_RETURN(const at::Tensor kept, memory->Recall(point));
  if (kept.defined()) return kept;
  QD_ASSIGN_OR_RETURN(const LinearInput value, compute());
  QD_RETURN_IF_ERROR(memory->Keep(point, value.values()));
  return value;
}

at::Tensor LayerPass::Norm(absl::string_view weight, const at::Tensor& input) const {
  if (weight.empty()) return input;
  return ApplyNorm(input, block.linear(ModuleOf(weight)), row.norm, config.norm_eps);
}

LinearInput LayerPass::NormForLinears(absl::string_view weight, const at::Tensor& input) const {
  if (weight.empty()) return input;
  const Linear& norm = block.linear(ModuleOf(weight));
  const NormKind kind = row.norm;
  const double eps = config.norm_eps;
  return LinearInput(
      input, [=, &norm] { return ApplyNorm(input, norm, kind, eps); },
      [=, &norm](const InputQuantization& wanted) {
        return NormToInt8(input, norm, kind, eps, wanted);
      });
}

absl::StatusOr<Decoder> Decoder::Create(const ModelConfig& config, const WeightSource& source,
                                        const DecoderOptions& options) {
  Decoder decoder;
  decoder.config_ = config;
  decoder.options_ = options;
  QD_ASSIGN_OR_RETURN(decoder.row_, FindArchitecture(config));
  QD_ASSIGN_OR_RETURN(decoder.activation_, FindActivation(config.hidden_act));
  QD_RETURN_IF_ERROR(ValidateWeights(config, *decoder.row_, source));
  QD_RETURN_IF_ERROR(decoder.FetchOuter(source));
  if (!decoder.row_->position_embedding.empty()) return decoder;
  QD_RETURN_IF_ERROR(TorchCall("preparing RoPE", [&] {
    const auto table = [&](const RopeConfig& rope) {
      return RopeTable(rope, config.RotaryDim(), options.device, options.dtype);
    };
    decoder.rope_ = table(config.rope);
    if (config.local_rope.has_value()) decoder.local_rope_ = table(*config.local_rope);
  }));
  return decoder;
}

absl::Status Decoder::FetchOuter(const WeightSource& source) {
  for (const ExpectedTensor& tensor : OuterTensors(config_, *row_)) {
    const auto fetch = [&](at::Tensor* out) -> absl::Status {
      QD_ASSIGN_OR_RETURN(*out, Fetch(source, tensor.name, options_.device, options_.dtype));
      return absl::OkStatus();
    };
    if (tensor.name == row_->embedding) {
      QD_ASSIGN_OR_RETURN(embedding_.tokens, FetchTable(source, tensor.name));
    } else if (tensor.name == row_->position_embedding) {
      QD_RETURN_IF_ERROR(fetch(&embedding_.positions));
    } else if (tensor.name == row_->final_norm) {
      QD_RETURN_IF_ERROR(fetch(&final_norm_.weight));
    } else if (absl::StartsWith(tensor.name, ModuleOf(row_->final_norm))) {
      QD_RETURN_IF_ERROR(fetch(&final_norm_.bias));
    } else if (options_.with_head && tensor.name == row_->head) {
      head_.input = source.InputRounding(tensor.name);
      QD_ASSIGN_OR_RETURN(head_.packed, FetchPacked(source, tensor.name));
      if (head_.packed != nullptr) continue;
      QD_ASSIGN_OR_RETURN(head_.weight, FetchTable(source, tensor.name));
    } else if (options_.with_head) {
      QD_RETURN_IF_ERROR(fetch(&head_.bias));
    }
  }
  if (options_.with_head && config_.tie_word_embeddings) head_.weight = embedding_.tokens;
  return absl::OkStatus();
}

// The embedding and the head are the largest tensors: a 16-bit one stays so for float32 work until
// the head is needed, because a row that is looked up can be widened without loss.
absl::StatusOr<at::Tensor> Decoder::FetchTable(const WeightSource& source,
                                               absl::string_view name) const {
  std::optional<at::ScalarType> dtype = options_.dtype;
  if (options_.dtype == at::kFloat) dtype = std::nullopt;
  return Fetch(source, std::string(name), options_.device, dtype);
}

absl::StatusOr<std::shared_ptr<const PackedWeight>> Decoder::FetchPacked(
    const WeightSource& source, absl::string_view name) const {
  if (!options_.packed) return nullptr;
  QD_ASSIGN_OR_RETURN(auto packed, source.ReadPacked(name, options_.device, options_.dtype),
                      "loading ", name);
  return packed;
}

absl::StatusOr<Block> Decoder::LoadBlock(int64_t layer, const WeightSource& source) const {
  if (layer < 0 || layer >= config_.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no block ", layer, ", only 0 to ", config_.layers - 1));
  }
  const std::string prefix = BlockPrefix(*row_, layer);
  Block block;
  block.layer_ = layer;
  for (const ExpectedTensor& tensor : BlockTensors(config_, *row_, layer)) {
    absl::string_view module = absl::StripPrefix(tensor.name, prefix);
    const bool is_bias = absl::ConsumeSuffix(&module, ".bias");
    Linear& held = block.modules_[ModuleOf(module)];
    at::Tensor& target = is_bias ? held.bias : held.weight;
    if (!is_bias) {
      held.input = source.InputRounding(tensor.name);
      QD_ASSIGN_OR_RETURN(held.packed, FetchPacked(source, tensor.name));
      if (held.packed != nullptr) continue;
    }
    QD_ASSIGN_OR_RETURN(target, Fetch(source, tensor.name, options_.device, options_.dtype));
  }
  return block;
}

absl::StatusOr<at::Tensor> Decoder::Embed(const at::Tensor& ids, const KvCache* cache,
                                          const Branches* branches) const {
  return TorchCall("embedding tokens", [&]() -> absl::StatusOr<at::Tensor> {
    const at::Tensor positions =
        branches == nullptr ? Positions(ids.size(-1), cache) : branches->positions();
    return embedding_.Embed(ids, positions, row_->scaled_embedding, options_.dtype);
  });
}

LayerPass Decoder::Pass(const Block& block, const ForwardOptions& options) const {
  const bool local = config_.local_rope.has_value() && config_.IsSliding(block.layer());
  return {.config = config_,
          .row = *row_,
          .block = block,
          .activation = activation_,
          .rope = local ? local_rope_ : rope_,
          .cache = options.cache,
          .branches = options.branches,
          .hook = options.hook,
          .memory = options.memory};
}

absl::StatusOr<at::Tensor> Decoder::Forward(const Block& block, const at::Tensor& hidden,
                                            const ForwardOptions& options) const {
  QD_RETURN_IF_ERROR(CheckHidden(hidden, 3, config_));
  return TorchCall(
      absl::StrCat("computing block ", block.layer()), [&]() -> absl::StatusOr<at::Tensor> {
        const LayerPass pass = Pass(block, options);
        if (row_->parallel) {
          const LinearInput normed = pass.NormForLinears(row_->attention_norm, hidden);
          QD_ASSIGN_OR_RETURN(const LinearInput attended,
                              pass.At(BlockPoint::kMiddle, [&]() -> absl::StatusOr<LinearInput> {
                                QD_ASSIGN_OR_RETURN(const at::Tensor mixed,
                                                    SelfAttention(pass, normed));
                                return pass.Norm(row_->attention_post_norm, mixed);
                              }));
          QD_ASSIGN_OR_RETURN(const at::Tensor fed, FeedForward(pass, normed));
          return attended.values() + fed + hidden;
        }
        // A part adds the residual itself where no norm lies between.
        const auto add = [&](const auto& part, const LinearInput& input,
                             absl::string_view post_norm,
                             const at::Tensor& residual) -> absl::StatusOr<at::Tensor> {
          if (post_norm.empty()) return part(pass, input, residual);
          QD_ASSIGN_OR_RETURN(const at::Tensor output, part(pass, input, at::Tensor()));
          return residual + pass.Norm(post_norm, output);
        };
        QD_ASSIGN_OR_RETURN(const LinearInput attended, pass.At(BlockPoint::kMiddle, [&] {
          return add(SelfAttention, pass.NormForLinears(row_->attention_norm, hidden),
                     row_->attention_post_norm, hidden);
        }));
        const at::Tensor& middle = attended.values();
        return add(FeedForward, pass.NormForLinears(row_->mlp_norm, middle), row_->mlp_post_norm,
                   middle);
      });
}

absl::StatusOr<at::Tensor> Decoder::ForwardPart(const Block& block, absl::string_view module,
                                                const at::Tensor& input) const {
  return TorchCall(absl::StrCat("computing ", module, " of block ", block.layer()),
                   [&]() -> absl::StatusOr<at::Tensor> {
                     const LayerPass pass = Pass(block, {});
                     if (module == row_->attention) return SelfAttention(pass, input);
                     if (module == row_->mlp) return FeedForward(pass, input);
                     if (block.Has(module)) return pass.Apply(module, input);
                     return absl::InvalidArgumentError(
                         absl::StrCat("a block of a ", row_->name, " has no part ", module));
                   });
}

absl::StatusOr<at::Tensor> Decoder::FinalNorm(const at::Tensor& hidden) const {
  QD_RETURN_IF_ERROR(CheckHidden(hidden, 0, config_));
  return TorchCall("computing the final norm",
                   [&] { return ApplyNorm(hidden, final_norm_, row_->norm, config_.norm_eps); });
}

absl::StatusOr<at::Tensor> Decoder::Logits(const at::Tensor& hidden) const {
  QD_ASSIGN_OR_RETURN(const at::Tensor logits, ComputedLogits(hidden));
  return TorchCall("computing logits", [&] { return logits.to(at::kFloat); });
}

absl::StatusOr<at::Tensor> Decoder::ComputedLogits(const at::Tensor& hidden) const {
  QD_ASSIGN_OR_RETURN(const at::Tensor normed, FinalNorm(hidden));
  if (!head_.weight.defined() && head_.packed == nullptr) {
    return absl::FailedPreconditionError("logits were asked of a decoder made without its head");
  }
  return TorchCall("computing logits", [&] {
    if (head_.packed == nullptr && head_.weight.scalar_type() != options_.dtype) {
      head_.weight = head_.weight.to(options_.dtype);
    }
    at::Tensor logits = ApplyLinear(head_, RotateOnline(normed, head_.input.rotation));
    const double cap = config_.final_softcap;
    if (cap > 0) logits.div_(cap).tanh_().mul_(cap);
    return logits;
  });
}

absl::Status Decoder::LogitsChunked(
    const at::Tensor& hidden, int64_t rows_max,
    const std::function<absl::Status(int64_t first_row, const at::Tensor& logits)>& consume) const {
  QD_RETURN_IF_ERROR(CheckHidden(hidden, 0, config_));
  QD_ASSIGN_OR_RETURN(const at::Tensor rows, TorchCall("computing logits", [&] {
                        return hidden.reshape({-1, config_.hidden_size});
                      }));
  rows_max = std::max<int64_t>(rows_max, 1);
  for (int64_t first = 0; first < rows.size(0); first += rows_max) {
    const int64_t count = std::min(rows_max, rows.size(0) - first);
    QD_ASSIGN_OR_RETURN(const at::Tensor logits, ComputedLogits(rows.narrow(0, first, count)));
    QD_RETURN_IF_ERROR(consume(first, logits));
  }
  return absl::OkStatus();
}

absl::StatusOr<RopeTable::Rows> Decoder::RopeRows(int64_t count) const {
  return TorchCall("preparing RoPE", [&] { return rope_.Range(0, count); });
}

int64_t Decoder::size_bytes() const {
  const bool shared = head_.weight.defined() && head_.weight.is_same(embedding_.tokens);
  const int64_t head = shared ? 0 : Bytes(head_);
  return embedding_.size_bytes() + Bytes(final_norm_) + head;
}

}  // namespace quantd::engine
