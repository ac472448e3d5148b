// Field by field through one small reader, so that every message has the same shape: file, field,
// value, allowed.
#include "workers/engine/checkpoint/config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
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
constexpr size_t kEosIdsMax = 1'000;

// Reads fields of one JSON object. The first error stays; later reads do nothing, so that a row of
// reads needs one check.
class FieldReader {
 public:
  FieldReader(const json& object, absl::string_view origin, absl::string_view parent = "")
      : object_(object), origin_(origin), parent_(parent) {}

  bool Has(const char* field) const {
    const auto found = object_.find(field);
    return found != object_.end() && !found->is_null();
  }
  const json& At(const char* field) const { return *object_.find(field); }

  void Fail(absl::string_view field, const json& value, absl::string_view allowed) {
    if (!status_.ok()) return;
    status_ = absl::DataLossError(absl::StrCat(origin_, ": \"", parent_, field, "\" is ",
                                               JsonText(value), "; it must be ", allowed));
  }
  // Both leave `*out` as it is when the field is absent or null and not required.
  void Int(const char* field, int64_t low, int64_t high, bool required, int64_t* out) {
    if (!Present(field, required)) return;
    const json& value = At(field);
    if (value.is_number_integer() && !IsAbove63Bits(value)) {
      const int64_t number = value.get<int64_t>();
      if (number >= low && number <= high) {
        *out = number;
        return;
      }
    }
    Fail(field, value, absl::StrCat("a whole number from ", low, " to ", high));
  }
  // Above 0 and finite.
  void Positive(const char* field, bool required, double* out) {
    if (!Present(field, required)) return;
    const json& value = At(field);
    if (value.is_number()) {
      const double number = value.get<double>();
      if (std::isfinite(number) && number > 0) {
        *out = number;
        return;
      }
    }
    Fail(field, value, "a number above 0");
  }
  void Bool(const char* field, bool* out) {
    if (!Present(field, false)) return;
    if (!At(field).is_boolean()) return Fail(field, At(field), "true or false");
    *out = At(field).get<bool>();
  }
  void Text(const char* field, std::string* out) {
    if (!Present(field, false)) return;
    if (!At(field).is_string()) return Fail(field, At(field), "a string");
    *out = At(field).get<std::string>();
  }
  const absl::Status& status() const { return status_; }

 private:
  static bool IsAbove63Bits(const json& value) {
    return value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  }
  bool Present(const char* field, bool required) {
    if (!status_.ok()) return false;
    if (Has(field)) return true;
    if (required) {
      status_ = absl::DataLossError(absl::StrCat(origin_, ": \"", parent_, field, "\" is missing"));
    }
    return false;
  }

  const json& object_;
  const std::string origin_;
  const std::string parent_;
  absl::Status status_;
};

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
  if (fields.Has("auto_map")) {
    fields.Fail("auto_map", fields.At("auto_map"),
                "absent: it names Python code of the repository, which is never run");
  }
  return fields.status();
}

absl::Status ParseSizes(FieldReader& fields, ModelConfig* config) {
  fields.Int("vocab_size", 1, kDimensionMax, true, &config->vocab_size);
  fields.Int("hidden_size", 1, kDimensionMax, true, &config->hidden_size);
  fields.Int("intermediate_size", 1, kDimensionMax, true, &config->intermediate_size);
  fields.Int("num_hidden_layers", 1, kLayersMax, true, &config->layers);
  fields.Int("num_attention_heads", 1, kHeadsMax, true, &config->heads);
  config->kv_heads = config->heads;
  fields.Int("num_key_value_heads", 1, kHeadsMax, false, &config->kv_heads);
  fields.Int("head_dim", 2, kHeadDimMax, false, &config->head_dim);
  fields.Int("max_position_embeddings", 1, kPositionsMax, true, &config->max_position_embeddings);
  fields.Positive("rms_norm_eps", false, &config->norm_eps);
  fields.Text("hidden_act", &config->hidden_act);
  QD_RETURN_IF_ERROR(fields.status());
  if (config->heads % config->kv_heads != 0) {
    fields.Fail("num_key_value_heads", config->kv_heads,
                absl::StrCat("a divisor of num_attention_heads (", config->heads, ")"));
  }
  if (config->head_dim == 0 && config->model_type == "qwen3") {
    config->head_dim = 128;  // The default of that class alone; the others divide.
  }
  if (config->head_dim == 0) {
    if (config->hidden_size % config->heads != 0) {
      fields.Fail("hidden_size", config->hidden_size,
                  absl::StrCat("a multiple of num_attention_heads (", config->heads,
                               ") where head_dim is absent"));
      return fields.status();
    }
    config->head_dim = config->hidden_size / config->heads;
  }
  if (config->head_dim % 2 != 0) {
    fields.Fail("head_dim", config->head_dim, "even, for rotary position embedding");
  }
  return fields.status();
}

absl::Status ParseRope(const json& object, absl::string_view origin, ModelConfig* config) {
  RopeConfig& rope = config->rope;
  FieldReader top(object, origin);
  top.Positive("rope_theta", false, &rope.theta);
  double rotary_part = 1.0;
  top.Positive("partial_rotary_factor", false, &rotary_part);
  // transformers 5 writes rope_parameters, older ones rope_scaling, and the old name wins where
  // both are.
  const char* name = top.Has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  if (top.Has(name) && !top.At(name).is_object()) top.Fail(name, top.At(name), "an object");
  QD_RETURN_IF_ERROR(top.status());
  const json empty = json::object();
  const json& scaling = top.Has(name) ? top.At(name) : empty;

  FieldReader fields(scaling, origin, absl::StrCat(name, "."));
  std::string type = "default";
  fields.Text("type", &type);
  fields.Text("rope_type", &type);
  fields.Positive("rope_theta", false, &rope.theta);
  fields.Positive("partial_rotary_factor", false, &rotary_part);
  QD_RETURN_IF_ERROR(fields.status());
  if (rotary_part != 1.0) {
    return absl::UnimplementedError(
        absl::StrCat(origin, ": partial_rotary_factor ", rotary_part, " is not supported, only 1"));
  }
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    fields.Positive("factor", true, &rope.factor);
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    fields.Positive("factor", true, &rope.factor);
    fields.Positive("low_freq_factor", true, &rope.low_freq_factor);
    fields.Positive("high_freq_factor", true, &rope.high_freq_factor);
    rope.original_max_position_embeddings = config->max_position_embeddings;
    fields.Int("original_max_position_embeddings", 1, kPositionsMax, false,
               &rope.original_max_position_embeddings);
    if (fields.status().ok() && rope.high_freq_factor <= rope.low_freq_factor) {
      fields.Fail("high_freq_factor", rope.high_freq_factor,
                  absl::StrCat("above low_freq_factor (", rope.low_freq_factor, ")"));
    }
  } else if (type != "default" || scaling.contains("full_attention")) {
    return absl::UnimplementedError(absl::StrCat(
        origin, ": ", name, " of type ", type == "default" ? "\"one a layer type\"" : Quoted(type),
        " is not supported; supported: default, linear, llama3"));
  }
  return fields.status();
}

// Which layers see only a window. transformers decides by class: Mistral slides in all layers, Qwen
// from max_window_layers on or as layer_types says, Llama never.
absl::Status ParseSlidingWindow(const json& object, FieldReader& fields, ModelConfig* config) {
  config->layer_is_sliding.assign(static_cast<size_t>(config->layers), false);
  const bool mistral = config->model_type == "mistral";
  const bool qwen = absl::StartsWith(config->model_type, "qwen");
  if (!mistral && !qwen) return absl::OkStatus();
  int64_t window = object.contains("sliding_window") ? 0 : 4096;  // Absent is not null here.
  fields.Int("sliding_window", 1, kPositionsMax, false, &window);
  bool use = mistral;
  int64_t first_layer = mistral ? 0 : 28;
  if (qwen) {
    fields.Bool("use_sliding_window", &use);
    fields.Int("max_window_layers", 0, kLayersMax, false, &first_layer);
  }
  QD_RETURN_IF_ERROR(fields.status());
  if (!use || window == 0) return absl::OkStatus();
  config->sliding_window = window;
  for (int64_t i = first_layer; i < config->layers; ++i) config->layer_is_sliding[i] = true;
  if (!qwen || !fields.Has("layer_types")) return absl::OkStatus();
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
  QD_RETURN_IF_ERROR(ParseSizes(fields, &config), "reading the configuration of a ", label);
  QD_RETURN_IF_ERROR(ParseRope(object, origin, &config));
  QD_RETURN_IF_ERROR(ParseSlidingWindow(object, fields, &config));
  fields.Bool("attention_bias", &config.attention_bias);
  fields.Bool("mlp_bias", &config.mlp_bias);
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
  return config;
}

}  // namespace quantd::engine
