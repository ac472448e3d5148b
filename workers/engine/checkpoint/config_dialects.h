// How the classes of transformers differ in their config.json: what a field is called, and what an
// absent one means. One row a class; everything else reads alike.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace quantd::engine {

// Which layers have the sliding window.
enum class WindowRule {
  kNever,     // The field, if any, is ignored.
  kAll,       // Every layer.
  kIfUsed,    // Every layer, where use_sliding_window is set.
  kFromLast,  // The same, but only from layer max_window_layers on, or as layer_types says.
  kPattern,   // All but every n-th (sliding_window_pattern), or as layer_types says.
};

struct ConfigDialect {
  absl::string_view model_type;
  absl::string_view architecture;  // Decides where model_type is absent.
  const char* hidden_size = "hidden_size";
  const char* intermediate_size = "intermediate_size";  // May be absent where it is "n_inner".
  const char* layers = "num_hidden_layers";
  const char* heads = "num_attention_heads";
  const char* positions = "max_position_embeddings";
  const char* norm_eps = "rms_norm_eps";
  const char* activation = "hidden_act";
  const char* experts = nullptr;  // Null: no mixture of experts.
  const char* expert_intermediate_size = "intermediate_size";
  // What an absent field means.
  double norm_eps_default = 1e-6;
  absl::string_view activation_default = "silu";
  bool tied_default = false;
  int64_t head_dim_default = 0;            // 0: hidden_size / heads.
  double rope_theta_default = 10000.0;     // 0: no rotary embedding, positions are learned.
  double rotary_part_default = 0;          // 0: partial rotation is not known to the class.
  int64_t original_positions_default = 0;  // 0: max_position_embeddings.
  bool normalize_experts_default = true;
  WindowRule window = WindowRule::kNever;
  int64_t window_default = 0;
  int64_t window_pattern_default = 0;
  // Whether the class reads query_pre_attn_scalar and the two soft caps, and their defaults.
  bool gemma = false;
  double attention_softcap_default = 0;
  double final_softcap_default = 0;
  bool local_rope = false;  // Layers with a window have their own base: rope_local_base_freq.
  // Real checkpoints carry Python code ("auto_map") that transformers has had for long: the class
  // is known, the code is not needed.
  bool ships_code = false;
  absl::string_view base_prefix = "";
};

// The row of that model_type, or where it is empty of that architecture; a plain row, that of
// Llama, for classes that are not here.
const ConfigDialect& FindDialect(absl::string_view model_type, absl::string_view architecture);

}  // namespace quantd::engine
