// Field by field: names, sizes, windows, experts, scores, token ids. Positions are in
// config_rope.cc.
#include "workers/engine/checkpoint/config.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/config_cache.h"
#include "workers/engine/checkpoint/config_dialects.h"
#include "workers/engine/checkpoint/config_rope.h"
#include "workers/engine/checkpoint/field_reader.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

// Bounds far above any real model; products of two of them stay within 63 bits.
constexpr int64_t kDimensionMax = int64_t{1} << 26;
constexpr int64_t kLayersMax = 10'000;
constexpr int64_t kHeadsMax = 100'000;
constexpr int64_t kHeadDimMax = 16'384;
constexpr int64_t kPositionsMax = int64_t{1} << 40;
constexpr int64_t kExpertsMax = 100'000;
constexpr size_t kEosIdsMax = 1'000;

absl::Status ParseNames(FieldReader& fields, ModelConfig* config) {
  fields.Text("model_type", &config->model_type);
  if (fields.Has("architectures")) {
    const json& names = fields.At("architectures");
    if (!names.is_array() || names.empty() || !names[0].is_string()) {
      fields.Fail("architectures", names, "an array that begins with a class name");
    } else {
      config->architecture = names[0].get<std::string>();
    }
  } else if (config->model_type.empty()) {
    fields.Fail("architectures", nullptr, "the model's class, such as [\"LlamaForCausalLM\"]");
  }
  if (fields.Has("auto_map") && !FindDialect(config->model_type, config->architecture).ships_code) {
    fields.Fail("auto_map", fields.At("auto_map"),
                "absent: it names Python code of the repository, which is never run");
  }
  return fields.status();
}

absl::Status ParseSizes(FieldReader& fields, const ConfigDialect& dialect, ModelConfig* config) {
  fields.Int("vocab_size", 1, kDimensionMax, true, &config->vocab_size);
  fields.Int(dialect.hidden_size, 1, kDimensionMax, true, &config->hidden_size);
  // GPT-2's n_inner, which is mostly null, means four times n_embd.
  const bool inner_required = absl::string_view(dialect.intermediate_size) != "n_inner";
  config->intermediate_size = 4 * config->hidden_size;
  fields.Int(dialect.intermediate_size, 1, kDimensionMax, inner_required,
             &config->intermediate_size);
  fields.Int(dialect.layers, 1, kLayersMax, true, &config->layers);
  fields.Int(dialect.heads, 1, kHeadsMax, true, &config->heads);
  config->kv_heads = config->heads;
  fields.Int("num_key_value_heads", 1, kHeadsMax, false, &config->kv_heads);
  config->head_dim = dialect.head_dim_default;
  fields.Int("head_dim", 2, kHeadDimMax, false, &config->head_dim);
  fields.Int(dialect.positions, 1, kPositionsMax, true, &config->max_position_embeddings);
  config->norm_eps = dialect.norm_eps_default;
  fields.Positive(dialect.norm_eps, false, &config->norm_eps);
  config->hidden_act = std::string(dialect.activation_default);
  fields.Text(dialect.activation, &config->hidden_act);
  QD_RETURN_IF_ERROR(fields.status());
  if (config->heads % config->kv_heads != 0) {
    fields.Fail("num_key_value_heads", config->kv_heads,
                absl::StrCat("a divisor of ", dialect.heads, " (", config->heads, ")"));
  }
  if (config->head_dim == 0) {
    if (config->hidden_size % config->heads != 0) {
      fields.Fail(dialect.hidden_size, config->hidden_size,
                  absl::StrCat("a multiple of ", dialect.heads, " (", config->heads,
                               ") where head_dim is absent"));
      return fields.status();
    }
    config->head_dim = config->hidden_size / config->heads;
  }
  return fields.status();
}

absl::Status ParseLayerTypes(FieldReader& fields, ModelConfig* config) {
  if (!fields.Has("layer_types")) return fields.status();
  const json& types = fields.At("layer_types");
  bool good = types.is_array() && types.size() == config->layer_is_sliding.size();
  for (size_t i = 0; good && i < types.size(); ++i) {
    good = types[i] == "sliding_attention" || types[i] == "full_attention";
    config->layer_is_sliding[i] = types[i] == "sliding_attention";
  }
  if (!good) {
    fields.Fail("layer_types", types,
                absl::StrCat("an array of ", config->layers,
                             " strings, each \"full_attention\" or \"sliding_attention\""));
  }
  return fields.status();
}

// Which layers see only a window: transformers decides by class.
absl::Status ParseSlidingWindow(const json& object, FieldReader& fields,
                                const ConfigDialect& dialect, ModelConfig* config) {
  const WindowRule rule = dialect.window;
  config->layer_is_sliding.assign(static_cast<size_t>(config->layers), false);
  if (rule == WindowRule::kNever) return absl::OkStatus();
  // Absent is not null here.
  int64_t window = object.contains("sliding_window") ? 0 : dialect.window_default;
  fields.Int("sliding_window", 1, kPositionsMax, false, &window);
  if (rule == WindowRule::kPattern) {
    int64_t pattern = dialect.window_pattern_default;
    fields.Int("sliding_window_pattern", 1, kLayersMax, false, &pattern);
    QD_RETURN_IF_ERROR(fields.status());
    config->sliding_window = window;
    for (int64_t i = 0; i < config->layers; ++i) {
      config->layer_is_sliding[i] = (i + 1) % pattern != 0;
    }
    return ParseLayerTypes(fields, config);
  }
  bool use = rule == WindowRule::kAll;
  if (!use) fields.Bool("use_sliding_window", &use);
  int64_t first_layer = 0;
  if (rule == WindowRule::kFromLast) {
    first_layer = 28;
    fields.Int("max_window_layers", 0, kLayersMax, false, &first_layer);
  }
  QD_RETURN_IF_ERROR(fields.status());
  if (!use || window == 0) return absl::OkStatus();
  config->sliding_window = window;
  for (int64_t i = first_layer; i < config->layers; ++i) config->layer_is_sliding[i] = true;
  return rule == WindowRule::kFromLast ? ParseLayerTypes(fields, config) : absl::OkStatus();
}

absl::Status ParseExperts(FieldReader& fields, const ConfigDialect& dialect, ModelConfig* config) {
  if (dialect.experts == nullptr) return absl::OkStatus();
  const char* count = fields.Has(dialect.experts) ? dialect.experts : "num_local_experts";
  fields.Int(count, 1, kExpertsMax, true, &config->experts);
  fields.Int("num_experts_per_tok", 1, kExpertsMax, true, &config->experts_per_token);
  fields.Int(dialect.expert_intermediate_size, 1, kDimensionMax, true,
             &config->expert_intermediate_size);
  config->normalize_expert_weights = dialect.normalize_experts_default;
  fields.Bool("norm_topk_prob", &config->normalize_expert_weights);
  int64_t step = 1;
  fields.Int("decoder_sparse_step", 1, kLayersMax, false, &step);
  QD_RETURN_IF_ERROR(fields.status());
  if (config->experts_per_token > config->experts) {
    fields.Fail("num_experts_per_tok", config->experts_per_token,
                absl::StrCat("at most ", count, " (", config->experts, ")"));
  }
  config->layer_is_dense.assign(static_cast<size_t>(config->layers), false);
  for (int64_t i = 0; i < config->layers; ++i) config->layer_is_dense[i] = (i + 1) % step != 0;
  if (!fields.Has("mlp_only_layers")) return fields.status();
  const json& plain = fields.At("mlp_only_layers");
  bool good = plain.is_array();
  for (size_t i = 0; good && i < plain.size(); ++i) {
    good = plain[i].is_number_integer() && plain[i] >= 0 && plain[i] < config->layers;
    if (good) config->layer_is_dense[plain[i].get<size_t>()] = true;
  }
  if (!good) {
    fields.Fail("mlp_only_layers", plain,
                absl::StrCat("an array of layers from 0 to ", config->layers - 1));
  }
  return fields.status();
}

// A switch that would change the computation in a way the decoder does not know.
absl::Status RefuseIfSet(FieldReader& fields, const char* field) {
  bool set = false;
  fields.Bool(field, &set);
  QD_RETURN_IF_ERROR(fields.status());
  if (!set) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(fields.origin(), ": \"", field, "\": true is not supported, only false"));
}

absl::Status ParseScores(FieldReader& fields, const ConfigDialect& dialect, ModelConfig* config) {
  for (const char* field : {"use_bidirectional_attention", "add_cross_attention"}) {
    QD_RETURN_IF_ERROR(RefuseIfSet(fields, field));
  }
  if (dialect.gemma) {
    config->query_scalar = 256;
    fields.Positive("query_pre_attn_scalar", false, &config->query_scalar);
    // A cap that is null is off; an absent one is the class's.
    const auto cap = [&](const char* field, double absent, double* out) {
      *out = fields.Exists(field) ? 0 : absent;
      fields.Positive(field, false, out);
    };
    cap("attn_logit_softcapping", dialect.attention_softcap_default, &config->attention_softcap);
    cap("final_logit_softcapping", dialect.final_softcap_default, &config->final_softcap);
  }
  bool scaled = true;
  fields.Bool("scale_attn_weights", &scaled);
  if (!scaled) config->query_scalar = 1;
  fields.Bool("scale_attn_by_inverse_layer_idx", &config->scale_by_layer);
  return fields.status();
}

}  // namespace

absl::Status ParseTokenIds(const json& value, absl::string_view origin, absl::string_view field,
                           std::vector<int64_t>* ids) {
  const json list = value.is_array() ? value : json::array({value});
  if (value.is_null()) return absl::OkStatus();
  bool good = list.size() <= kEosIdsMax;
  for (const json& id : list) {
    good = good && id.is_number_integer() && id >= -1 && id <= kDimensionMax;
    if (!good) break;
    const int64_t number = id.get<int64_t>();
    // -1 stands for "none" in some files.
    if (number >= 0 && std::find(ids->begin(), ids->end(), number) == ids->end()) {
      ids->push_back(number);
    }
  }
  if (good) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(origin, ": \"", field, "\" is ", JsonText(value),
                                          "; it must be a token id or an array of token ids"));
}

absl::StatusOr<ModelConfig> ParseModelConfig(const json& object, absl::string_view origin) {
  if (!object.is_object()) {
    return absl::DataLossError(
        absl::StrCat(origin, ": must be an object but is ", JsonText(object)));
  }
  ModelConfig config;
  FieldReader fields(object, origin);
  QD_RETURN_IF_ERROR(ParseNames(fields, &config));
  const std::string label = config.architecture.empty() ? config.model_type : config.architecture;
  const ConfigDialect& dialect = FindDialect(config.model_type, config.architecture);
  QD_RETURN_IF_ERROR(ParseSizes(fields, dialect, &config), "reading the configuration of a ",
                     label);
  QD_RETURN_IF_ERROR(ParseRope(object, origin, dialect, &config));
  QD_RETURN_IF_ERROR(ParseSlidingWindow(object, fields, dialect, &config));
  QD_RETURN_IF_ERROR(ParseExperts(fields, dialect, &config));
  QD_RETURN_IF_ERROR(ParseScores(fields, dialect, &config));
  config.base_prefix = std::string(dialect.base_prefix);
  config.tie_word_embeddings = dialect.tied_default;
  fields.Bool("attention_bias", &config.attention_bias);
  fields.Bool("mlp_bias", &config.mlp_bias);
  fields.Bool("qk_layernorm", &config.qk_layernorm);
  fields.Bool("tie_word_embeddings", &config.tie_word_embeddings);
  fields.Text("torch_dtype", &config.dtype);
  fields.Text("dtype", &config.dtype);
  QD_RETURN_IF_ERROR(fields.status());

  std::vector<int64_t> ids;
  const auto read_one = [&](const char* field, std::optional<int64_t>* id) -> absl::Status {
    ids.clear();
    if (!fields.Has(field)) return absl::OkStatus();
    QD_RETURN_IF_ERROR(ParseTokenIds(fields.At(field), origin, field, &ids));
    if (!ids.empty()) *id = ids.front();
    return absl::OkStatus();
  };
  QD_RETURN_IF_ERROR(read_one("bos_token_id", &config.bos_token_id));
  QD_RETURN_IF_ERROR(read_one("pad_token_id", &config.pad_token_id));
  if (fields.Has("eos_token_id")) {
    QD_RETURN_IF_ERROR(
        ParseTokenIds(fields.At("eos_token_id"), origin, "eos_token_id", &config.eos_token_ids));
  }
  config.is_quantized = fields.Has("quantization_config");
  if (config.is_quantized) {
    QD_ASSIGN_OR_RETURN(config.cache, ParseCacheTransform(fields.At("quantization_config"),
                                                          config.head_dim, origin));
  }
  return config;
}

}  // namespace quantd::engine
