// The parts of a decoder block as functions of a block and its input: what a row's switches mean is
// decided here, once. decoder.cc puts them together.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/models/activation.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/models/block.h"
#include "workers/engine/models/branches.h"
#include "workers/engine/models/kv_cache.h"
#include "workers/engine/models/linear_input.h"
#include "workers/engine/models/rope.h"

namespace quantd::engine {

// Sees the input of every linear layer before it is computed.
class LinearHook {
 public:
  virtual ~LinearHook() = default;
  // `module` within the block; `input` [..., in] in the decoder's dtype, turned already where the
  // layer wants it so: [B, T, in], but [tokens, in] for an expert, which sees only those routed to
  // it and is not called without any. Layers that share an input (q, k, v; gate, up) are given
  // the very same tensor (input.is_same()). An error ends the forward pass.
  virtual absl::Status OnInput(absl::string_view module, const at::Tensor& input) = 0;
};

// Where a pass through a block may begin instead of at its input. Every linear in front of a point
// is computed before it and none behind it.
enum class BlockPoint {
  kMixed,   // The attention's values before its last linear: [B, T, heads * head_dim].
  kMiddle,  // In front of the feed-forward: [B, T, H]. The residual; a parallel block's attention.
  kInner,   // What the plain MLP's last linear reads: [B, T, intermediate_size].
};

// Keeps values of one pass for the next one over the same input. The caller sees to it that what
// is kept is what the block would compute now.
class BlockMemory {
 public:
  virtual ~BlockMemory() = default;
  // Undefined: not kept. Not to be written to.
  virtual absl::StatusOr<at::Tensor> Recall(BlockPoint point) = 0;
  // May decide not to.
  virtual absl::Status Keep(BlockPoint point, const at::Tensor& value) = 0;
};

// What the parts of one pass through a block share. Refers to what the decoder and its caller own.
struct LayerPass {
  const ModelConfig& config;
  const Architecture& row;
  const Block& block;
  Activation activation;
  RopeTable& rope;
  KvCache* cache = nullptr;
  const Branches* branches = nullptr;
  LinearHook* hook = nullptr;
  BlockMemory* memory = nullptr;

  // The linear `module` of `input`, which is turned where the layer wants it and then shown to the
  // hook first; added to `residual` where that is defined.
  absl::StatusOr<at::Tensor> Apply(absl::string_view module, const LinearInput& input,
                                   const at::Tensor& residual = {}) const;
  // What was kept of an earlier pass, else what `compute` makes, which is then offered to be kept.
  absl::StatusOr<LinearInput> At(BlockPoint point,
                                 absl::FunctionRef<absl::StatusOr<LinearInput>()> compute) const;
  // The norm whose weight has that name within the block; the input itself where it is empty.
  at::Tensor Norm(absl::string_view weight, const at::Tensor& input) const;
  LinearInput NormForLinears(absl::string_view weight, const at::Tensor& input) const;
};

// What a layer's attention scores are multiplied by.
double AttentionScale(const ModelConfig& config, int64_t layer);

// All throw what libtorch throws. `normed` [B, T, H] -> [B, T, H], added to `residual` where that
// is defined.
absl::StatusOr<at::Tensor> SelfAttention(const LayerPass& pass, const LinearInput& normed,
                                         const at::Tensor& residual = {});
// The plain MLP or the mixture of experts, whichever the layer has.
absl::StatusOr<at::Tensor> FeedForward(const LayerPass& pass, const LinearInput& normed,
                                       const at::Tensor& residual = {});
// Each token goes to its experts_per_token best experts, weighted by the router's softmax.
absl::StatusOr<at::Tensor> MixtureOfExperts(const LayerPass& pass, const at::Tensor& normed);

// An MLP's linears by their names; empty: there is none.
struct MlpModules {
  absl::string_view gate, up, gate_up, down;
};
absl::StatusOr<at::Tensor> Mlp(const LayerPass& pass, const MlpModules& modules,
                               const LinearInput& input);

}  // namespace quantd::engine
