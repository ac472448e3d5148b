// The table. Defaults are those of the classes of transformers 5; a field is written only where it
// differs from the struct's.
#include "workers/engine/checkpoint/config_dialects.h"

namespace quantd::engine {
namespace {

constexpr ConfigDialect kDialects[] = {
    {.model_type = "llama", .architecture = "LlamaForCausalLM"},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .window = WindowRule::kAll,
     .window_default = 4096},
    {.model_type = "mixtral",
     .architecture = "MixtralForCausalLM",
     .experts = "num_local_experts",
     .norm_eps_default = 1e-5,
     .rope_theta_default = 1e6,
     .window = WindowRule::kAll},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .window = WindowRule::kFromLast,
     .window_default = 4096},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .head_dim_default = 128,
     .window = WindowRule::kFromLast,
     .window_default = 4096},
    {.model_type = "qwen3_moe",
     .architecture = "Qwen3MoeForCausalLM",
     .experts = "num_experts",
     .expert_intermediate_size = "moe_intermediate_size",
     .normalize_experts_default = false,
     .window = WindowRule::kIfUsed,
     .window_default = 4096},
    {.model_type = "gpt2",
     .architecture = "GPT2LMHeadModel",
     .hidden_size = "n_embd",
     .intermediate_size = "n_inner",
     .layers = "n_layer",
     .heads = "n_head",
     .positions = "n_positions",
     .norm_eps = "layer_norm_epsilon",
     .activation = "activation_function",
     .norm_eps_default = 1e-5,
     .activation_default = "gelu_new",
     .tied_default = true,
     .rope_theta_default = 0,
     .base_prefix = "transformer."},
    {.model_type = "phi",
     .architecture = "PhiForCausalLM",
     .norm_eps = "layer_norm_eps",
     .norm_eps_default = 1e-5,
     .activation_default = "gelu_new",
     .rotary_part_default = 0.5,
     .ships_code = true},
    {.model_type = "phi3",
     .architecture = "Phi3ForCausalLM",
     .norm_eps_default = 1e-5,
     .rotary_part_default = 1.0,
     .original_positions_default = 4096,
     .window = WindowRule::kAll,
     .ships_code = true},
    {.model_type = "gemma2",
     .architecture = "Gemma2ForCausalLM",
     .activation = "hidden_activation",
     .activation_default = "gelu_pytorch_tanh",
     .tied_default = true,
     .head_dim_default = 256,
     .window = WindowRule::kPattern,
     .window_default = 4096,
     .window_pattern_default = 2,
     .gemma = true,
     .attention_softcap_default = 50.0,
     .final_softcap_default = 30.0},
    {.model_type = "gemma3_text",
     .architecture = "Gemma3ForCausalLM",
     .activation = "hidden_activation",
     .activation_default = "gelu_pytorch_tanh",
     .tied_default = true,
     .head_dim_default = 256,
     .rope_theta_default = 1e6,
     .window = WindowRule::kPattern,
     .window_default = 4096,
     .window_pattern_default = 6,
     .gemma = true,
     .local_rope = true},
};

}  // namespace

const ConfigDialect& FindDialect(absl::string_view model_type, absl::string_view architecture) {
  for (const ConfigDialect& dialect : kDialects) {
    const bool typed = !model_type.empty();
    if (typed ? dialect.model_type == model_type : dialect.architecture == architecture) {
      return dialect;
    }
  }
  return kDialects[0];
}

}  // namespace quantd::engine
