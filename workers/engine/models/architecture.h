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

// Whether a block has a part: never, always, or as a field of the config says.
enum class When { kNever, kAlways, kAttentionBias, kMlpBias, kQkLayernorm };

enum class NormKind {
  kRms,         // x / rms(x), cast, times weight.
  kRmsPlusOne,  // x / rms(x) times (1 + weight), then cast (Gemma).
  kLayer,       // (x - mean) / deviation times weight plus bias.
};

// An empty name: the architecture has no such tensor or layer.
struct Architecture {
  absl::string_view name;        // config.json "architectures": "Qwen2ForCausalLM".
  absl::string_view model_type;  // config.json "model_type".
  NormKind norm = NormKind::kRms;
  When qkv_bias = When::kNever;
  When output_bias = When::kNever;
  When mlp_bias = When::kNever;
  When qk_norm = When::kNever;  // The norm over each head's q and k before RoPE.
  bool head_bias = false;
  bool parallel = false;          // Attention and MLP read one norm; the block has no second one.
  bool scaled_embedding = false;  // Rows are multiplied by the root of hidden_size.
  bool transposed = false;        // Linears of blocks are stored [in, out] (Conv1D).
  // Names of tensors outside the blocks; a block's begin with `block_prefix` + "{layer}.".
  absl::string_view embedding = "model.embed_tokens.weight";
  absl::string_view position_embedding = "";  // Learned positions [max_position_embeddings, H].
  absl::string_view block_prefix = "model.layers.";
  absl::string_view final_norm = "model.norm.weight";
  absl::string_view head = "lm_head.weight";
  // Norms in a block; the "post" ones come before a branch is added to the residual stream.
  absl::string_view attention_norm = "input_layernorm.weight";
  absl::string_view attention_post_norm = "";
  absl::string_view mlp_norm = "post_attention_layernorm.weight";
  absl::string_view mlp_post_norm = "";
  absl::string_view q_norm = "self_attn.q_norm.weight";
  absl::string_view k_norm = "self_attn.k_norm.weight";
  // Linear layers in a block. Either q, k, v or all three as the rows of qkv.
  absl::string_view attention = "self_attn";
  absl::string_view q = "self_attn.q_proj";
  absl::string_view k = "self_attn.k_proj";
  absl::string_view v = "self_attn.v_proj";
  absl::string_view qkv = "";
  absl::string_view output = "self_attn.o_proj";
  // Either gate and up, or both as the rows of gate_up, or up alone: the MLP is not gated then.
  absl::string_view mlp = "mlp";
  absl::string_view gate = "mlp.gate_proj";
  absl::string_view up = "mlp.up_proj";
  absl::string_view gate_up = "";
  absl::string_view down = "mlp.down_proj";
  // Mixture of experts: the router [experts, H], and the experts' linears, which are called
  // `experts` + "{expert}." + name.
  absl::string_view router = "";
  absl::string_view experts = "";
  absl::string_view expert_gate = "gate_proj";
  absl::string_view expert_up = "up_proj";
  absl::string_view expert_down = "down_proj";
};

absl::Span<const Architecture> Architectures();
// By "architectures", then by "model_type". Unimplemented names the known ones.
absl::StatusOr<const Architecture*> FindArchitecture(const ModelConfig& config);
// By the names alone; `architecture` may be empty.
absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view architecture,
                                                     absl::string_view model_type);

// Whether the config's switches give blocks that part.
bool Has(When when, const ModelConfig& config);

// A linear layer of a block. Weight [out, in], bias [out].
struct LinearShape {
  std::string module;  // Within the block: "self_attn.q_proj".
  int64_t out = 0;
  int64_t in = 0;
  bool has_bias = false;
  // Layers of one group see the same input; groups come one after the other: q, k, v = 0; o = 1;
  // gate, up = 2; down = 3; of expert e: gate, up = 2 + 2 e; down = 3 + 2 e.
  int group = 0;
  int64_t expert = -1;  // Of a mixture: it sees only the tokens routed to it.
};
// In the order of computation.
std::vector<LinearShape> Linears(const ModelConfig& config, const Architecture& row, int64_t layer);

// "input_layernorm.weight" -> "input_layernorm".
absl::string_view ModuleOf(absl::string_view weight_name);

// "model.layers.3.".
std::string BlockPrefix(const Architecture& row, int64_t layer);

// Every dense tensor that the model consists of, with its shape: what a checkpoint must hold,
// neither quantized nor tied away.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;  // As it is computed with: linears [out, in].
};
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config, const Architecture& row);
// The shape in which a file holds a tensor of that shape: the same, but the other way round for
// floating weights of linears where the row says `transposed`. Is its own inverse.
std::vector<int64_t> StoredShape(const Architecture& row, const TensorInfo& tensor);
// Whether that shape is another.
bool IsStoredTransposed(const Architecture& row, const TensorInfo& tensor);
// Those outside the blocks.
std::vector<ExpectedTensor> OuterTensors(const ModelConfig& config, const Architecture& row);
// Of one block only.
std::vector<ExpectedTensor> BlockTensors(const ModelConfig& config, const Architecture& row,
                                         int64_t layer);
// Sum of all elements, a tied head counted once.
int64_t ParameterCount(const ModelConfig& config, const Architecture& row);

}  // namespace quantd::engine
