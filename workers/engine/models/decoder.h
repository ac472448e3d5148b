// The one decoder: embedding, blocks (RMSNorm, grouped-query attention with RoPE, gated MLP), final
// norm, head. What differs between architectures are the switches of its row. Blocks are loaded and
// dropped one at a time, so that a model larger than memory can stream through. The order of casts
// in 16 bits is that of transformers.
//
// Shapes: B sequences, T positions, H hidden_size, V vocab_size. Hidden states have the decoder's
// device and dtype. Padding on the right is harmless (attention is causal); positions start at 0,
// or where the cache ends. Not thread-safe.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/models/activation.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/models/kv_cache.h"
#include "workers/engine/models/rope.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {

struct Linear {
  at::Tensor weight;  // [out, in], the decoder's device and dtype.
  at::Tensor bias;    // [out], or undefined.
  InputQuantization input;
};

// One block's weights, owned (never a view of a file): the caller may replace or change them.
class Block {
 public:
  int64_t layer() const { return layer_; }
  // By the name within the block: "self_attn.q_proj". The name must be one of Linears().
  Linear& linear(absl::string_view module);
  const Linear& linear(absl::string_view module) const;
  // Replaces a weight, cast and moved to the one it replaces. Its shape must be the same.
  absl::Status SetWeight(absl::string_view module, const at::Tensor& weight);
  int64_t size_bytes() const;

 private:
  friend class Decoder;
  int64_t layer_ = 0;
  std::vector<std::pair<std::string, Linear>> linears_;
  at::Tensor attention_norm_, mlp_norm_, q_norm_, k_norm_;
};

// Sees the input of every linear layer before it is computed.
class LinearHook {
 public:
  virtual ~LinearHook() = default;
  // `module` within the block; `input` [B, T, in] in the decoder's dtype. Layers that share an
  // input (q, k, v; gate, up) are given the very same tensor (input.is_same()). An error ends the
  // forward pass.
  virtual absl::Status OnInput(absl::string_view module, const at::Tensor& input) = 0;
};

struct ForwardOptions {
  KvCache* cache = nullptr;  // Keys and values of earlier positions; is extended by this call.
  LinearHook* hook = nullptr;
};

struct DecoderOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // kFloat, kBFloat16 or kHalf.
  // Without it Logits fails; saves memory where only hidden states are wanted.
  bool with_head = true;
};

class Decoder {
 public:
  // Checks all shapes of `source` against `config`, then loads the embedding, the final norm and
  // the head.
  static absl::StatusOr<Decoder> Create(const ModelConfig& config, const WeightSource& source,
                                        const DecoderOptions& options);

  absl::StatusOr<Block> LoadBlock(int64_t layer, const WeightSource& source) const;

  // ids int64 [B, T] on any device -> [B, T, H]. InvalidArgument for an id outside the vocabulary.
  absl::StatusOr<at::Tensor> Embed(const at::Tensor& ids) const;
  // hidden [B, T, H] -> [B, T, H], a new tensor.
  absl::StatusOr<at::Tensor> Forward(const Block& block, const at::Tensor& hidden,
                                     const ForwardOptions& options = {}) const;
  // Final norm and head: hidden [..., H] -> float32 [..., V] on the decoder's device.
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& hidden) const;
  // The same without [B, T, V] ever existing: hidden [..., H] is taken as rows [R, H]; `consume`
  // gets the logits float32 [n, V] of the rows first_row, first_row + 1, ..., at most `rows_max` at
  // a time, in order.
  absl::Status LogitsChunked(
      const at::Tensor& hidden, int64_t rows_max,
      const std::function<absl::Status(int64_t first_row, const at::Tensor& logits)>& consume)
      const;

  const ModelConfig& config() const { return config_; }
  const Architecture& architecture() const { return *row_; }
  at::Device device() const { return options_.device; }
  at::ScalarType dtype() const { return options_.dtype; }
  // Of the parts outside the blocks.
  int64_t size_bytes() const;

 private:
  Decoder() = default;
  absl::StatusOr<at::Tensor> FetchTable(const WeightSource& source, absl::string_view name) const;
  // These throw what libtorch throws.
  absl::StatusOr<at::Tensor> Apply(const Block& block, absl::string_view module,
                                   const at::Tensor& input, LinearHook* hook) const;
  absl::StatusOr<at::Tensor> Attention(const Block& block, const at::Tensor& normed,
                                       const ForwardOptions& options) const;
  absl::StatusOr<at::Tensor> Mlp(const Block& block, const at::Tensor& normed,
                                 LinearHook* hook) const;
  RopeTable::Rows RopeRows(int64_t first, int64_t count, const KvCache* cache) const;

  ModelConfig config_;
  const Architecture* row_ = nullptr;
  DecoderOptions options_;
  Activation activation_ = nullptr;
  std::vector<LinearShape> linears_;
  at::Tensor embedding_, final_norm_;
  mutable at::Tensor
      head_;  // Tied: the embedding. Widened to the decoder's dtype at its first use.
  mutable RopeTable rope_;
};

}  // namespace quantd::engine
