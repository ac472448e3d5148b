// A model's config.json as typed fields, each checked: a wrong type, an impossible value or a
// missing field is an error that names the file, the field, the value and what is allowed.
// Understands the old `rope_scaling` and the `rope_parameters` of transformers 5. What this file
// does not know stays available as raw JSON; unknown rotary scalings are refused by name, because
// ignoring them would give a model that is silently wrong.
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

enum class RopeScaling { kDefault, kLinear, kLlama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kDefault;
  // Linear and llama3.
  double factor = 1.0;
  // llama3 only.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_position_embeddings = 0;
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
  int64_t head_dim = 0;  // Even; heads * head_dim need not be hidden_size.
  double norm_eps = 1e-6;
  std::string hidden_act = "silu";
  RopeConfig rope;
  // As the file says; what an architecture makes of them is in its row (models/architecture.h).
  bool attention_bias = false;
  bool mlp_bias = false;
  bool tie_word_embeddings = false;
  // Keys that a query sees, itself included; 0: all. Only in layers whose `layer_is_sliding` is
  // set.
  int64_t sliding_window = 0;
  std::vector<bool> layer_is_sliding;  // One a layer.
  int64_t max_position_embeddings = 0;
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;
  std::vector<int64_t>
      eos_token_ids;          // config.json's, united with generation_config.json's; may be empty.
  std::string dtype;          // "bfloat16", "float16", "float32", or empty when the file is silent.
  bool is_quantized = false;  // "quantization_config" is there.
};

// `origin` is the file's path, for messages.
absl::StatusOr<ModelConfig> ParseModelConfig(const nlohmann::json& json, absl::string_view origin);

// Adds the token ids of a field that holds one, several or null, each once.
absl::Status ParseTokenIds(const nlohmann::json& value, absl::string_view origin,
                           absl::string_view field, std::vector<int64_t>* ids);

}  // namespace quantd::engine
