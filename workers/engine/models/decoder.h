// The one decoder: embedding, blocks (norms, attention, feed-forward), final norm, head. What
// differs between architectures are the switches of its row (architecture.h); what they mean is in
// layer.h, embedding.h and norm.h. Blocks are loaded and dropped one at a time, so that a model
// larger than memory can stream through. The order of casts in 16 bits is that of transformers.
//
// Shapes: B sequences, T positions, H hidden_size, V vocab_size. Hidden states have the decoder's
// device and dtype. Padding on the right is harmless (attention is causal); positions start at 0,
// or where the cache ends. Not thread-safe.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/models/activation.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/models/block.h"
#include "workers/engine/models/branches.h"
#include "workers/engine/models/embedding.h"
#include "workers/engine/models/kv_cache.h"
#include "workers/engine/models/layer.h"
#include "workers/engine/models/rope.h"
#include "workers/engine/models/weights.h"

namespace quantd::engine {

struct ForwardOptions {
  KvCache* cache = nullptr;  // Keys and values of earlier positions; is extended by this call.
  LinearHook* hook = nullptr;
  BlockMemory* memory = nullptr;       // Without a cache only.
  const Branches* branches = nullptr;  // Of the batch; without a cache only.
};

struct DecoderOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // kFloat, kBFloat16 or kHalf.
  // Without it Logits fails; saves memory where only hidden states are wanted.
  bool with_head = true;
  // Weights that the source holds in a form that the device's kernels multiply with stay in it.
  bool packed = false;
};

class Decoder {
 public:
  // Checks all shapes of `source` against `config`, then loads the embedding, the final norm and
  // the head.
  static absl::StatusOr<Decoder> Create(const ModelConfig& config, const WeightSource& source,
                                        const DecoderOptions& options);

  absl::StatusOr<Block> LoadBlock(int64_t layer, const WeightSource& source) const;

  // ids int64 [B, T] on any device -> [B, T, H]. `cache` and `branches` are those that Forward will
  // be given: they say which positions these are. InvalidArgument for an id outside the vocabulary
  // or a position behind the last one that the model learned.
  absl::StatusOr<at::Tensor> Embed(const at::Tensor& ids, const KvCache* cache = nullptr,
                                   const Branches* branches = nullptr) const;
  // hidden [B, T, H] -> [B, T, H], a new tensor.
  absl::StatusOr<at::Tensor> Forward(const Block& block, const at::Tensor& hidden,
                                     const ForwardOptions& options = {}) const;
  // One part of a block alone: `module` is the row's `attention` or `mlp`, whose input is the
  // norm's output, or a linear. input [B, T, in] -> [B, T, out].
  absl::StatusOr<at::Tensor> ForwardPart(const Block& block, absl::string_view module,
                                         const at::Tensor& input) const;
  // hidden [..., H] -> [..., H], the head's input.
  absl::StatusOr<at::Tensor> FinalNorm(const at::Tensor& hidden) const;
  // Final norm and head: hidden [..., H] -> float32 [..., V] on the decoder's device.
  absl::StatusOr<at::Tensor> Logits(const at::Tensor& hidden) const;
  // The same without [B, T, V] ever existing: hidden [..., H] is taken as rows [R, H]; `consume`
  // gets the logits [n, V], in the dtype of the computation, of the rows first_row, first_row + 1,
  // ..., at most `rows_max` at a time, in order.
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
  const Linear& head() const { return head_; }
  const Linear& final_norm() const { return final_norm_; }
  const at::Tensor& tokens() const { return embedding_.tokens; }
  // Of the positions 0 ... count - 1, where they turn alike in every layer and at every length.
  absl::StatusOr<RopeTable::Rows> RopeRows(int64_t count) const;

 private:
  Decoder() = default;
  absl::StatusOr<at::Tensor> FetchTable(const WeightSource& source, absl::string_view name) const;
  absl::Status FetchOuter(const WeightSource& source);
  absl::StatusOr<std::shared_ptr<const PackedWeight>> FetchPacked(const WeightSource& source,
                                                                  absl::string_view name) const;
  LayerPass Pass(const Block& block, const ForwardOptions& options) const;
  // Logits before they are widened.
  absl::StatusOr<at::Tensor> ComputedLogits(const at::Tensor& hidden) const;

  ModelConfig config_;
  const Architecture* row_ = nullptr;
  DecoderOptions options_;
  Activation activation_;
  Embedding embedding_;
  Linear final_norm_;
  mutable Linear head_;  // Tied: the embedding. Widened to the decoder's dtype at its first use.
  mutable RopeTable rope_, local_rope_;
};

}  // namespace quantd::engine
