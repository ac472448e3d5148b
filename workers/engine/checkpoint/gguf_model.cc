// The table first; then names, metadata and configuration as functions of it.
#include "workers/engine/checkpoint/gguf_model.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr GgufNames kOuter[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
};
// Llama's own rotary turns neighbours, so its q and k are stored with paired rows.
constexpr GgufNames kLlamaBlock[] = {
    {"input_layernorm", "attn_norm"},     {"self_attn.q_proj", "attn_q", true},
    {"self_attn.k_proj", "attn_k", true}, {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},  {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},        {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};
constexpr GgufNames kQwenBlock[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

// Read from GGUF the first row of a name counts: Mistral without its window is a Llama.
constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "LlamaForCausalLM", "llama", "model.layers.", kOuter, kLlamaBlock},
    {"llama", "MistralForCausalLM", "mistral", "model.layers.", kOuter, kLlamaBlock},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", "model.layers.", kOuter, kQwenBlock},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", "model.layers.", kOuter, kQwenBlock},
};

std::string KnownArchitectures() {
  return absl::StrJoin(kArchitectures, ", ", [](std::string* out, const GgufArchitecture& row) {
    absl::StrAppend(out, row.hf);
  });
}

// "model.layers.3.self_attn.q_proj" -> 3, "self_attn.q_proj"; false outside the blocks.
bool SplitBlock(absl::string_view prefix, absl::string_view name, int64_t* layer,
                absl::string_view* rest) {
  if (!absl::ConsumePrefix(&name, prefix)) return false;
  const size_t dot = name.find('.');
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(name.substr(0, dot), layer)) return false;
  *rest = name.substr(dot + 1);
  return *layer >= 0;
}

const GgufNames* FindModule(const GgufArchitecture& row, absl::string_view module, int64_t* layer) {
  absl::string_view rest = module;
  *layer = -1;
  const bool in_block = SplitBlock(row.block_prefix, module, layer, &rest);
  for (const GgufNames& names : in_block ? row.block : row.outer) {
    if (names.hf == rest) return &names;
  }
  return nullptr;
}

// Reads metadata as typed values. The first error stays.
class KeyReader {
 public:
  KeyReader(const GgufFile& file, absl::string_view architecture)
      : file_(file), prefix_(absl::StrCat(architecture, ".")) {}

  const GgufValue* Find(absl::string_view key) const {
    return file_.Value(absl::StartsWith(key, ".") ? absl::StrCat(prefix_, key.substr(1)) : key);
  }
  bool Has(absl::string_view key) const { return Find(key) != nullptr; }
  int64_t Int(absl::string_view key) {
    const GgufValue* value = Find(key);
    if (value != nullptr && value->integer() != nullptr) return *value->integer();
    // Some models have one number a layer; only the same for all is read.
    if (value != nullptr && value->integers() != nullptr && !value->integers()->empty()) {
      const std::vector<int64_t>& all = *value->integers();
      if (std::equal(all.begin() + 1, all.end(), all.begin())) return all[0];
    }
    Fail(key, "a whole number");
    return 0;
  }
  double Number(absl::string_view key) {
    const GgufValue* value = Find(key);
    if (value != nullptr && value->fraction() != nullptr) return *value->fraction();
    Fail(key, "a number");
    return 0;
  }
  std::string Text(absl::string_view key) {
    const GgufValue* value = Find(key);
    if (value != nullptr && value->text() != nullptr) return *value->text();
    Fail(key, "a string");
    return "";
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(absl::string_view key, absl::string_view kind) {
    if (!status_.ok()) return;
    status_ = absl::DataLossError(
        absl::StrCat(file_.path(), ": metadata ", prefix_, absl::StripPrefix(key, "."),
                     Has(key) ? " is not " : " is missing; it must be ", kind));
  }
  const GgufFile& file_;
  const std::string prefix_;
  absl::Status status_;
};

// A float that was a short decimal once is that again: 1e-05, not 9.999999747378752e-06.
double ShortDecimal(double value) {
  const float single = static_cast<float>(value);
  double decimal = 0;
  return absl::SimpleAtod(absl::StrCat(single), &decimal) && static_cast<float>(decimal) == single
             ? decimal
             : value;
}

absl::Status AddTokenIds(KeyReader& keys, json& config) {
  for (const char* name : {"bos", "eos"}) {
    const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
    if (keys.Has(key)) config[absl::StrCat(name, "_token_id")] = keys.Int(key);
  }
  // Some models end a turn with another token than a text.
  if (keys.Has("tokenizer.ggml.eot_token_id") && config.contains("eos_token_id")) {
    config["eos_token_id"] = {config["eos_token_id"], keys.Int("tokenizer.ggml.eot_token_id")};
  }
  return keys.status();
}

// How many tensors have which type.
json TypesOf(const GgufFile& file) {
  json types = json::object();
  for (const std::string& name : file.names()) {
    const std::string type(kernels::FindGgufBlock(file.Find(name)->type)->name);
    types[type] = types.value(type, 0) + 1;
  }
  return types;
}

absl::Status AddRope(const GgufFile& file, KeyReader& keys, json& config) {
  config["rope_theta"] =
      keys.Has(".rope.freq_base") ? ShortDecimal(keys.Number(".rope.freq_base")) : 10000.0;
  const std::string type =
      keys.Has(".rope.scaling.type") ? keys.Text(".rope.scaling.type") : "none";
  if (type == "linear") {
    config["rope_scaling"] = {{"rope_type", "linear"},
                              {"factor", ShortDecimal(keys.Number(".rope.scaling.factor"))}};
  } else if (type != "none") {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": rope.scaling.type is ",
                                                 Quoted(type), "; none and linear are read"));
  }
  const GgufTensorView* factors = file.Find(kRopeFactorsTensor);
  if (factors == nullptr) return keys.status();
  if (factors->type != kernels::GgufType::kF32 || factors->shape.size() != 1) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": tensor ", kRopeFactorsTensor, " is no row of f32"));
  }
  // Whatever scaling they came from (llama3's, mostly): divisors of the frequencies.
  std::vector<float> divisors(static_cast<size_t>(factors->shape[0]));
  std::memcpy(divisors.data(), factors->bytes.data(), factors->bytes.size());
  config["rope_scaling"] = {{"rope_type", "longrope"},
                            {"short_factor", divisors},
                            {"long_factor", divisors},
                            {"factor", 1.0},
                            {"attention_factor", 1.0}};
  return keys.status();
}

}  // namespace

absl::StatusOr<const GgufArchitecture*> GgufArchitectureOf(const ModelConfig& config) {
  for (const GgufArchitecture& row : kArchitectures) {
    if (config.architecture.empty() ? row.model_type == config.model_type
                                    : row.hf == config.architecture) {
      return &row;
    }
  }
  return absl::UnimplementedError(
      absl::StrCat("format gguf has no names for architecture \"",
                   config.architecture.empty() ? config.model_type : config.architecture,
                   "\"; it has ", KnownArchitectures()));
}

absl::StatusOr<const GgufArchitecture*> GgufArchitectureOf(const GgufFile& file) {
  const GgufValue* value = file.Value("general.architecture");
  const std::string* name = value == nullptr ? nullptr : value->text();
  if (name == nullptr) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": metadata general.architecture is missing"));
  }
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.gguf == *name) return &row;
  }
  return absl::UnimplementedError(absl::StrCat(file.path(), ": general.architecture is ",
                                               Quoted(*name), "; this engine reads those of ",
                                               KnownArchitectures()));
}

absl::StatusOr<std::string> ToGgufName(const GgufArchitecture& row, absl::string_view module,
                                       absl::string_view kind) {
  int64_t layer = -1;
  const GgufNames* names = FindModule(row, module, &layer);
  if (names == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("GGUF's architecture ", row.gguf, " has no name for ", module, ".", kind));
  }
  if (layer < 0) return absl::StrCat(names->gguf, ".", kind);
  return absl::StrCat("blk.", layer, ".", names->gguf, ".", kind);
}

bool HasPairedRows(const GgufArchitecture& row, absl::string_view module) {
  int64_t layer = -1;
  const GgufNames* names = FindModule(row, module, &layer);
  return names != nullptr && names->paired_rows;
}

std::optional<GgufTensorName> FromGgufName(const GgufArchitecture& row, absl::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == absl::string_view::npos) return std::nullopt;
  const std::string kind(name.substr(dot + 1));
  absl::string_view rest = name.substr(0, dot);
  int64_t layer = -1;
  const bool in_block = SplitBlock("blk.", rest, &layer, &rest);
  for (const GgufNames& names : in_block ? row.block : row.outer) {
    if (names.gguf != rest) continue;
    return GgufTensorName{
        in_block ? absl::StrCat(row.block_prefix, layer, ".", names.hf) : std::string(names.hf),
        kind, names.paired_rows};
  }
  return std::nullopt;
}

absl::StatusOr<GgufMetadata> GgufMetadataOf(const ModelConfig& config) {
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(config));
  const std::string prefix = absl::StrCat(row->gguf, ".");
  GgufMetadata metadata;
  const auto set = [&](absl::string_view key, GgufValue value) {
    metadata.emplace(absl::StrCat(prefix, key), std::move(value));
  };
  metadata.emplace("general.architecture", GgufValue::String(std::string(row->gguf)));
  metadata.emplace("general.quantization_version", GgufValue::U32(2));
  set("vocab_size", GgufValue::U32(config.vocab_size));
  set("context_length", GgufValue::U32(config.max_position_embeddings));
  set("embedding_length", GgufValue::U32(config.hidden_size));
  set("block_count", GgufValue::U32(config.layers));
  set("feed_forward_length", GgufValue::U32(config.intermediate_size));
  set("attention.head_count", GgufValue::U32(config.heads));
  set("attention.head_count_kv", GgufValue::U32(config.kv_heads));
  set("attention.key_length", GgufValue::U32(config.head_dim));
  set("attention.value_length", GgufValue::U32(config.head_dim));
  set("attention.layer_norm_rms_epsilon", GgufValue::F32(config.norm_eps));
  set("rope.dimension_count", GgufValue::U32(config.head_dim));
  set("rope.freq_base", GgufValue::F32(config.rope.theta));
  if (config.rope.scaling == RopeScaling::kLinear) {
    set("rope.scaling.type", GgufValue::String("linear"));
    set("rope.scaling.factor", GgufValue::F32(config.rope.factor));
  }
  return metadata;
}

std::vector<float> RopeFactors(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (rope.scaling != RopeScaling::kLlama3) return {};
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  std::vector<float> factors;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    const double exponent = static_cast<double>(i) / static_cast<double>(config.head_dim);
    const double wave = 2 * std::numbers::pi * std::pow(rope.theta, exponent);
    const double smooth =
        (context / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    const double between = 1 / ((1 - smooth) / rope.factor + smooth);
    const bool is_short = wave < context / rope.high_freq_factor;
    const bool is_long = wave > context / rope.low_freq_factor;
    factors.push_back(static_cast<float>(is_short ? 1 : is_long ? rope.factor : between));
  }
  return factors;
}

absl::StatusOr<json> ConfigOfGguf(const GgufFile& file) {
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(file));
  KeyReader keys(file, row->gguf);
  json config = {{"architectures", {std::string(row->hf)}},
                 {"model_type", std::string(row->model_type)},
                 {"hidden_size", keys.Int(".embedding_length")},
                 {"intermediate_size", keys.Int(".feed_forward_length")},
                 {"num_hidden_layers", keys.Int(".block_count")},
                 {"num_attention_heads", keys.Int(".attention.head_count")},
                 {"max_position_embeddings", keys.Int(".context_length")},
                 {"rms_norm_eps", ShortDecimal(keys.Number(".attention.layer_norm_rms_epsilon"))},
                 {"tie_word_embeddings", file.Find("output.weight") == nullptr},
                 {"attention_bias", file.Find("blk.0.attn_output.bias") != nullptr},
                 {"mlp_bias", file.Find("blk.0.ffn_up.bias") != nullptr},
                 {"quantization_config", {{"quant_method", "gguf"}, {"types", TypesOf(file)}}}};
  if (keys.Has(".attention.head_count_kv")) {
    config["num_key_value_heads"] = keys.Int(".attention.head_count_kv");
  }
  if (keys.Has(".attention.key_length")) config["head_dim"] = keys.Int(".attention.key_length");
  const GgufTensorView* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": tensor token_embd.weight is missing or no matrix"));
  }
  config["vocab_size"] = embedding->shape[0];
  if (const GgufValue* value = file.Value("general.file_type"); value != nullptr) {
    if (const int64_t* number = value->integer()) {
      config["quantization_config"]["file_type"] = *number;
    }
  }
  QD_RETURN_IF_ERROR(AddRope(file, keys, config));
  QD_RETURN_IF_ERROR(AddTokenIds(keys, config));
  QD_RETURN_IF_ERROR(keys.status());
  return config;
}


absl::StatusOr<std::vector<GgufHfTensor>> HfTensorsOf(const GgufFile& file) {
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(file));
  std::vector<GgufHfTensor> tensors;
  for (const std::string& name : file.names()) {
    if (name == kRopeFactorsTensor) continue;
    const GgufTensorView& view = *file.Find(name);
    const std::optional<GgufTensorName> known = FromGgufName(*row, name);
    const std::string module = known ? known->module : name;
    const std::string kind = known ? absl::StrCat(".", known->kind) : "";
    switch (view.type) {
      case kernels::GgufType::kF32:
        tensors.push_back({module + kind, {DType::kF32, view.shape, view.bytes}});
        continue;
      case kernels::GgufType::kF16:
        tensors.push_back({module + kind, {DType::kF16, view.shape, view.bytes}});
        continue;
      case kernels::GgufType::kBF16:
        tensors.push_back({module + kind, {DType::kBF16, view.shape, view.bytes}});
        continue;
      default:
        break;
    }
    const std::string type(kernels::FindGgufBlock(view.type)->name);
    if (view.shape.size() != 2) {
      return absl::DataLossError(absl::StrCat(file.path(), ": tensor ", Quoted(name), " of type ",
                                              type, " has the shape ", ShapeText(view.shape),
                                              ", which is no matrix"));
    }
    const int64_t row_bytes = static_cast<int64_t>(view.bytes.size()) / view.shape[0];
    tensors.push_back({absl::StrCat(module, ".", kGgufBlocksKind, type),
                       {DType::kU8, {view.shape[0], row_bytes}, view.bytes}});
  }
  return tensors;
}

}  // namespace quantd::engine
