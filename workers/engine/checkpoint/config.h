// A model's config.json as typed fields, each checked: a wrong type, an impossible value or a
// missing field is an error that names the file, the field, the value and what is allowed.
// Understands the names and defaults of every supported class (config_dialects.h), the old
// `rope_scaling` and the `rope_parameters` of transformers 5. What this file does not know stays
// available as raw JSON; switches that change the computation and are not supported are refused by
// name, because ignoring them would give a model that is silently wrong.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

enum class RopeScaling { kDefault, kLinear, kDynamic, kYarn, kLongRope, kLlama3 };

// "linear", as config.json spells it.
absl::string_view RopeScalingName(RopeScaling scaling);

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kDefault;
  double factor = 1.0;  // Linear, dynamic, yarn, llama3.
  // The length the model was trained with. Dynamic stretches, longrope changes its factors, beyond
  // it; yarn and llama3 compare wavelengths with it.
  int64_t original_max_position_embeddings = 0;
  double attention_factor = 1.0;  // Cosines and sines are multiplied by it (yarn, longrope).
  // llama3 only.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  // yarn only.
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;
  // longrope only: divisors of the frequencies, one a pair of rotated dimensions, for sequences of
  // at most and of more than original_max_position_embeddings.
  std::vector<double> short_factor;
  std::vector<double> long_factor;
};

// What becomes of queries, keys and values before attention (QuaRot's R3 and its cache).
struct CacheTransform {
  int64_t rotation = 0;  // Order of the Hadamard blocks that turn queries and keys; 0: none.
  int bits = 16;         // 4, 8: keys and values are rounded, each head of each token by itself.
  bool operator==(const CacheTransform&) const = default;
};

struct ModelConfig {
  std::string architecture;  // The first of "architectures": "LlamaForCausalLM".
  std::string model_type;    // "llama".
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;  // Divides heads.
  int64_t head_dim = 0;  // heads * head_dim need not be hidden_size.
  double norm_eps = 1e-6;
  std::string hidden_act = "silu";
  RopeConfig rope;
  std::optional<RopeConfig> local_rope;  // Of layers with a sliding window, where theirs differs.
  int64_t rotary_dim = 0;                // Even: the first dimensions of a head turn; 0: all.
  // As the file says; what an architecture makes of them is in its row (models/architecture.h).
  bool attention_bias = false;
  bool mlp_bias = false;
  bool qk_layernorm = false;
  bool tie_word_embeddings = false;
  // Attention scores are divided by its square root; 0: by that of head_dim.
  double query_scalar = 0;
  bool scale_by_layer = false;  // And by the layer's number, counted from one.
  // cap * tanh(x / cap) of attention scores and of logits; 0: none.
  double attention_softcap = 0;
  double final_softcap = 0;
  // Keys that a query sees, itself included; 0: all. Only in layers whose `layer_is_sliding` is
  // set.
  int64_t sliding_window = 0;
  std::vector<bool> layer_is_sliding;  // One a layer.
  // Mixture of experts; 0 experts: none.
  int64_t experts = 0;
  int64_t experts_per_token = 0;
  int64_t expert_intermediate_size = 0;
  bool normalize_expert_weights = true;  // The chosen experts' weights are made to add up to one.
  std::vector<bool> layer_is_dense;      // One a layer: it has a plain MLP all the same.
  int64_t max_position_embeddings = 0;
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;
  std::vector<int64_t>
      eos_token_ids;          // config.json's, united with generation_config.json's; may be empty.
  std::string dtype;          // "bfloat16", "float16", "float32", or empty when the file is silent.
  bool is_quantized = false;  // "quantization_config" is there.
  CacheTransform cache;       // Of it; nothing where it says nothing.
  // Tensors of files that were saved without it get it: "transformer.". Empty for most.
  std::string base_prefix;

  bool IsSliding(int64_t layer) const { return At(layer_is_sliding, layer); }
  bool HasExperts(int64_t layer) const { return experts > 0 && !At(layer_is_dense, layer); }
  int64_t RotaryDim() const { return rotary_dim > 0 ? rotary_dim : head_dim; }

 private:
  static bool At(const std::vector<bool>& flags, int64_t layer) {
    const size_t at = static_cast<size_t>(layer);
    return at < flags.size() && flags[at];
  }
};

// `origin` is the file's path, for messages.
absl::StatusOr<ModelConfig> ParseModelConfig(const nlohmann::json& json, absl::string_view origin);

// Adds the token ids of a field that holds one, several or null, each once.
absl::Status ParseTokenIds(const nlohmann::json& value, absl::string_view origin,
                           absl::string_view field, std::vector<int64_t>* ids);

}  // namespace quantd::engine
