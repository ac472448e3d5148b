// The forward pass, in transformers' order of operations and casts: norms in float32, everything
// else in the decoder's dtype.
#include "workers/engine/models/decoder.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "workers/engine/models/attention.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

int64_t Bytes(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
}

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

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.pow(2).mean(-1, /*keepdim=*/true) + eps);
  return weight * (wide * scale).to(x.scalar_type());
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

}  // namespace

Linear& Block::linear(absl::string_view module) {
  for (auto& [name, linear] : linears_) {
    if (name == module) return linear;
  }
  CheckFailed(__FILE__, __LINE__, "module is a linear of the block", module);
}

const Linear& Block::linear(absl::string_view module) const {
  return const_cast<Block*>(this)->linear(module);
}

absl::Status Block::SetWeight(absl::string_view module, const at::Tensor& weight) {
  Linear& target = linear(module);
  if (weight.sizes() != target.weight.sizes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the weight of ", module, " has the shape ", ShapeText(target.weight.sizes().vec()),
        "; the new one has ", ShapeText(weight.sizes().vec())));
  }
  QD_ASSIGN_OR_RETURN(target.weight, TorchCall(absl::StrCat("replacing ", module), [&] {
                        return weight.to(target.weight.device(), target.weight.scalar_type(),
                                         /*non_blocking=*/false, /*copy=*/true);
                      }));
  return absl::OkStatus();
}

int64_t Block::size_bytes() const {
  int64_t bytes = Bytes(attention_norm_) + Bytes(mlp_norm_) + Bytes(q_norm_) + Bytes(k_norm_);
  for (const auto& [name, linear] : linears_) bytes += Bytes(linear.weight) + Bytes(linear.bias);
  return bytes;
}

absl::StatusOr<Decoder> Decoder::Create(const ModelConfig& config, const WeightSource& source,
                                        const DecoderOptions& options) {
  Decoder decoder;
  decoder.config_ = config;
  decoder.options_ = options;
  QD_ASSIGN_OR_RETURN(decoder.row_, FindArchitecture(config));
  QD_ASSIGN_OR_RETURN(decoder.activation_, FindActivation(config.hidden_act));
  QD_RETURN_IF_ERROR(ValidateWeights(config, *decoder.row_, source));
  decoder.linears_ = Linears(config, *decoder.row_);

  const Architecture& row = *decoder.row_;
  QD_ASSIGN_OR_RETURN(decoder.embedding_, decoder.FetchTable(source, row.embedding));
  QD_ASSIGN_OR_RETURN(decoder.final_norm_,
                      Fetch(source, std::string(row.final_norm), options.device, options.dtype));
  if (options.with_head) {
    if (config.tie_word_embeddings) {
      decoder.head_ = decoder.embedding_;
    } else {
      QD_ASSIGN_OR_RETURN(decoder.head_, decoder.FetchTable(source, row.head));
    }
  }
  QD_RETURN_IF_ERROR(TorchCall("preparing RoPE", [&] {
    decoder.rope_ = RopeTable(config.rope, config.head_dim, options.device, options.dtype);
  }));
  return decoder;
}

// The embedding and the head are the largest tensors: a 16-bit one stays so for float32 work until
// the head is needed, because a row that is looked up can be widened without loss.
absl::StatusOr<at::Tensor> Decoder::FetchTable(const WeightSource& source,
                                               absl::string_view name) const {
  std::optional<at::ScalarType> dtype = options_.dtype;
  if (options_.dtype == at::kFloat) dtype = std::nullopt;
  return Fetch(source, std::string(name), options_.device, dtype);
}

absl::StatusOr<Block> Decoder::LoadBlock(int64_t layer, const WeightSource& source) const {
  if (layer < 0 || layer >= config_.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no block ", layer, ", only 0 to ", config_.layers - 1));
  }
  const std::string prefix = BlockPrefix(*row_, layer);
  const auto fetch = [&](absl::string_view name, at::Tensor* out) -> absl::Status {
    QD_ASSIGN_OR_RETURN(*out,
                        Fetch(source, absl::StrCat(prefix, name), options_.device, options_.dtype));
    return absl::OkStatus();
  };
  Block block;
  block.layer_ = layer;
  QD_RETURN_IF_ERROR(fetch(row_->attention_norm, &block.attention_norm_));
  QD_RETURN_IF_ERROR(fetch(row_->mlp_norm, &block.mlp_norm_));
  if (row_->qk_norm) {
    QD_RETURN_IF_ERROR(fetch(row_->q_norm, &block.q_norm_));
    QD_RETURN_IF_ERROR(fetch(row_->k_norm, &block.k_norm_));
  }
  for (const LinearShape& shape : linears_) {
    Linear linear;
    QD_RETURN_IF_ERROR(fetch(absl::StrCat(shape.module, ".weight"), &linear.weight));
    if (shape.has_bias) {
      QD_RETURN_IF_ERROR(fetch(absl::StrCat(shape.module, ".bias"), &linear.bias));
    }
    linear.input = source.InputRounding(absl::StrCat(prefix, shape.module, ".weight"));
    block.linears_.emplace_back(shape.module, std::move(linear));
  }
  return block;
}

absl::StatusOr<at::Tensor> Decoder::Embed(const at::Tensor& ids) const {
  if (ids.dim() != 2 || ids.numel() == 0 || ids.scalar_type() != at::kLong) {
    return absl::InvalidArgumentError(
        absl::StrCat("token ids must be int64 [B, T] and not empty, but are ",
                     c10::toString(ids.scalar_type()), " ", ShapeText(ids.sizes().vec())));
  }
  return TorchCall("embedding tokens", [&]() -> absl::StatusOr<at::Tensor> {
    // Checked here, because on a GPU a bad index ends the process's use of the device.
    const int64_t low = ids.min().item<int64_t>(), high = ids.max().item<int64_t>();
    if (low < 0 || high >= config_.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token id ", low < 0 ? low : high, " is outside the vocabulary of ", config_.vocab_size));
    }
    return at::embedding(embedding_, ids.to(options_.device)).to(options_.dtype);
  });
}

absl::StatusOr<at::Tensor> Decoder::Apply(const Block& block, absl::string_view module,
                                          const at::Tensor& input, LinearHook* hook) const {
  if (hook != nullptr) QD_RETURN_IF_ERROR(hook->OnInput(module, input));
  const Linear& linear = block.linear(module);
  return at::linear(RoundInput(input, linear.input), linear.weight,
                    linear.bias.defined() ? std::optional(linear.bias) : std::nullopt);
}

RopeTable::Rows Decoder::RopeRows(int64_t first, int64_t count, const KvCache* cache) const {
  if (cache == nullptr || cache->starts().empty()) return rope_.Range(first, count);
  const at::Tensor start = at::tensor(cache->starts(), at::kLong).unsqueeze(1);
  const at::Tensor positions = at::arange(first, first + count, at::kLong).unsqueeze(0) - start;
  return rope_.Pick(positions.clamp_min(0), first + count);
}

absl::StatusOr<at::Tensor> Decoder::Attention(const Block& block, const at::Tensor& normed,
                                              const ForwardOptions& options) const {
  const int64_t batch = normed.size(0), count = normed.size(1);
  const auto split = [&](const at::Tensor& x) {
    return x.view({batch, count, -1, config_.head_dim});
  };
  QD_ASSIGN_OR_RETURN(at::Tensor q, Apply(block, "self_attn.q_proj", normed, options.hook));
  QD_ASSIGN_OR_RETURN(at::Tensor k, Apply(block, "self_attn.k_proj", normed, options.hook));
  QD_ASSIGN_OR_RETURN(at::Tensor v, Apply(block, "self_attn.v_proj", normed, options.hook));
  q = split(q);
  k = split(k);
  if (block.q_norm_.defined()) {
    q = RmsNorm(q, block.q_norm_, config_.norm_eps);
    k = RmsNorm(k, block.k_norm_, config_.norm_eps);
  }
  KvCache* cache = options.cache;
  const int64_t first = cache == nullptr ? 0 : cache->length(block.layer_);
  const RopeTable::Rows rows = RopeRows(first, count, cache);
  q = ApplyRope(q.transpose(1, 2), rows);
  k = ApplyRope(k.transpose(1, 2), rows);
  v = split(v).transpose(1, 2);
  AttentionMask mask;
  if (cache != nullptr) {
    std::tie(k, v) = cache->Append(block.layer_, k, v);
    mask.starts = &cache->starts();
  }
  const bool sliding = config_.layer_is_sliding[static_cast<size_t>(block.layer_)];
  if (sliding) mask.window = config_.sliding_window;
  const at::Tensor mixed = Attend(q, k, v, mask)
                               .transpose(1, 2)
                               .reshape({batch, count, config_.heads * config_.head_dim});
  return Apply(block, "self_attn.o_proj", mixed, options.hook);
}

absl::StatusOr<at::Tensor> Decoder::Mlp(const Block& block, const at::Tensor& normed,
                                        LinearHook* hook) const {
  QD_ASSIGN_OR_RETURN(at::Tensor gate, Apply(block, "mlp.gate_proj", normed, hook));
  QD_ASSIGN_OR_RETURN(const at::Tensor up, Apply(block, "mlp.up_proj", normed, hook));
  gate = activation_(gate).mul_(up);
  return Apply(block, "mlp.down_proj", gate, hook);
}

absl::StatusOr<at::Tensor> Decoder::Forward(const Block& block, const at::Tensor& hidden,
                                            const ForwardOptions& options) const {
  QD_RETURN_IF_ERROR(CheckHidden(hidden, 3, config_));
  return TorchCall(
      absl::StrCat("computing block ", block.layer_), [&]() -> absl::StatusOr<at::Tensor> {
        QD_ASSIGN_OR_RETURN(
            const at::Tensor attended,
            Attention(block, RmsNorm(hidden, block.attention_norm_, config_.norm_eps), options));
        const at::Tensor middle = hidden + attended;
        QD_ASSIGN_OR_RETURN(
            const at::Tensor mlp,
            Mlp(block, RmsNorm(middle, block.mlp_norm_, config_.norm_eps), options.hook));
        return middle + mlp;
      });
}

absl::StatusOr<at::Tensor> Decoder::Logits(const at::Tensor& hidden) const {
  QD_RETURN_IF_ERROR(CheckHidden(hidden, 0, config_));
  if (!head_.defined()) {
    return absl::FailedPreconditionError("logits were asked of a decoder made without its head");
  }
  return TorchCall("computing logits", [&] {
    if (head_.scalar_type() != options_.dtype) head_ = head_.to(options_.dtype);
    return at::linear(RmsNorm(hidden, final_norm_, config_.norm_eps), head_).to(at::kFloat);
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
    QD_ASSIGN_OR_RETURN(const at::Tensor logits, Logits(rows.narrow(0, first, count)));
    QD_RETURN_IF_ERROR(consume(first, logits));
  }
  return absl::OkStatus();
}

int64_t Decoder::size_bytes() const {
  const bool shared = head_.defined() && head_.is_same(embedding_);
  return Bytes(embedding_) + Bytes(final_norm_) + (shared ? 0 : Bytes(head_));
}

}  // namespace quantd::engine
