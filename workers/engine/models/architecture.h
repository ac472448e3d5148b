// The architectures as data: one row each says what its tensors are called and which switches of
// the one decoder it sets. Adding an architecture whose differences are switches is adding a row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {

// Where a bias comes from.
enum class Bias {
  kNever,
  kAlways,
  kAttentionBias,
  kMlpBias
};  // The last two: as the config's field says.

struct Architecture {
  absl::string_view name;        // config.json "architectures": "Qwen2ForCausalLM".
  absl::string_view model_type;  // config.json "model_type".
  Bias qkv_bias;
  Bias output_bias;  // o_proj.
  Bias mlp_bias;
  bool qk_norm;  // RMSNorm over each head's q and k before RoPE.
  // Names of tensors outside the blocks; a block's begin with `block_prefix` + "{layer}.".
  absl::string_view embedding = "model.embed_tokens.weight";
  absl::string_view block_prefix = "model.layers.";
  absl::string_view final_norm = "model.norm.weight";
  absl::string_view head = "lm_head.weight";
  absl::string_view attention_norm = "input_layernorm.weight";
  absl::string_view mlp_norm = "post_attention_layernorm.weight";
  absl::string_view q_norm = "self_attn.q_norm.weight";
  absl::string_view k_norm = "self_attn.k_norm.weight";
};

absl::Span<const Architecture> Architectures();
// By "architectures", then by "model_type". Unimplemented names the known ones.
absl::StatusOr<const Architecture*> FindArchitecture(const ModelConfig& config);
// By the names alone; `architecture` may be empty.
absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view architecture,
                                                     absl::string_view model_type);

// A linear layer of a block. Weight [out, in], bias [out].
struct LinearShape {
  std::string module;  // Within the block: "self_attn.q_proj".
  int64_t out = 0;
  int64_t in = 0;
  bool has_bias = false;
  // Layers of one group see the same input; groups come one after the other: q, k, v = 0; o = 1;
  // gate, up = 2; down = 3.
  int group = 0;
};
// In the order of computation. The same for every block.
std::vector<LinearShape> Linears(const ModelConfig& config, const Architecture& row);

// "model.layers.3.".
std::string BlockPrefix(const Architecture& row, int64_t layer);

// Every dense tensor that the model consists of, with its shape: what a checkpoint must hold,
// neither quantized nor tied away.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config, const Architecture& row);
// Those outside the blocks.
std::vector<ExpectedTensor> OuterTensors(const ModelConfig& config, const Architecture& row);
// Of one block only.
std::vector<ExpectedTensor> BlockTensors(const ModelConfig& config, const Architecture& row,
                                         int64_t layer);
// Sum of all elements, a tied head counted once.
int64_t ParameterCount(const ModelConfig& config, const Architecture& row);

}  // namespace quantd::engine
