// Configuration into metadata and back, and a file's tensors under Hugging Face's names.
#include "workers/engine/checkpoint/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numbers>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr char kLlama3Factors[] = "rope_freqs.weight";
constexpr char kShortFactors[] = "rope_factors_short.weight";
constexpr char kLongFactors[] = "rope_factors_long.weight";

// Reads metadata as typed values. The first error stays. A key that begins with "." is the
// architecture's own.
class KeyReader {
 public:
  KeyReader(const GgufFile& file, absl::string_view architecture)
      : file_(file), architecture_(architecture) {}

  std::string Full(absl::string_view key) const {
    return absl::StrCat(absl::StartsWith(key, ".") ? architecture_ : "", key);
  }
  bool Has(absl::string_view key) const { return file_.Value(Full(key)) != nullptr; }
  int64_t Int(absl::string_view key) {
    const GgufValue* value = file_.Value(Full(key));
    if (value != nullptr && value->integer() != nullptr) return *value->integer();
    // Some models have one number a layer; only the same for all is read.
    if (value != nullptr && value->integers() != nullptr && !value->integers()->empty()) {
      const std::vector<int64_t>& all = *value->integers();
      if (std::equal(all.begin() + 1, all.end(), all.begin())) return all[0];
    }
    Fail(key, "a whole number");
    return 0;
  }
  // A float that was a short decimal once is that again: 1e-05, not 9.999999747378752e-06.
  double Number(absl::string_view key) {
    const GgufValue* value = file_.Value(Full(key));
    if (value == nullptr || value->fraction() == nullptr) {
      Fail(key, "a number");
      return 0;
    }
    const float single = static_cast<float>(*value->fraction());
    double decimal = 0;
    const bool same =
        absl::SimpleAtod(absl::StrCat(single), &decimal) && static_cast<float>(decimal) == single;
    return same ? decimal : *value->fraction();
  }
  std::string Text(absl::string_view key) {
    const GgufValue* value = file_.Value(Full(key));
    if (value != nullptr && value->text() != nullptr) return *value->text();
    Fail(key, "a string");
    return "";
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(absl::string_view key, absl::string_view kind) {
    if (!status_.ok()) return;
    status_ =
        absl::DataLossError(absl::StrCat(file_.path(), ": metadata ", Full(key),
                                         Has(key) ? " is not " : " is missing; it must be ", kind));
  }
  const GgufFile& file_;
  const std::string architecture_;
  absl::Status status_;
};

absl::Status Refuse(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat(
      "format gguf: ", what, ", which llama.cpp does not compute; use another output format"));
}

// What readers take for granted and a model may do otherwise.
absl::Status CheckExpressible(const ModelConfig& config, const GgufArchitecture& row) {
  const auto& dense = config.layer_is_dense;
  if (config.experts > 0 && std::find(dense.begin(), dense.end(), true) != dense.end()) {
    return Refuse("some blocks have experts and others none");
  }
  if (config.experts > 0 && !config.normalize_expert_weights) {
    return Refuse("the chosen experts' weights do not add up to one");
  }
  if (config.scale_by_layer) return Refuse("attention scores are scaled by the layer's number");
  if (config.qk_layernorm) return Refuse("queries and keys have a layer norm");
  const double scalar = config.query_scalar;
  const double head = static_cast<double>(config.head_dim);
  // The largest Gemmas scale by the hidden size, and readers know them by their number of layers.
  const bool largest = row.norms_plus_one && (config.layers == 46 || config.layers == 62);
  const double wanted =
      largest ? static_cast<double>(config.hidden_size) / static_cast<double>(config.heads) : head;
  if (scalar != 0 && scalar != wanted) {
    return Refuse(absl::StrCat("query_pre_attn_scalar is ", scalar, " instead of ", wanted));
  }
  return absl::OkStatus();
}

using Set = std::function<void(absl::string_view, GgufValue)>;

absl::Status SetRope(const ModelConfig& config, const Set& set) {
  const RopeConfig& rope = config.rope;
  set("rope.dimension_count", GgufValue::U32(config.RotaryDim()));
  set("rope.freq_base", GgufValue::F32(rope.theta));
  if (config.local_rope) set("rope.freq_base_swa", GgufValue::F32(config.local_rope->theta));
  switch (rope.scaling) {
    case RopeScaling::kDefault:
    case RopeScaling::kLlama3:
      return absl::OkStatus();
    case RopeScaling::kLinear:
      set("rope.scaling.type", GgufValue::String("linear"));
      set("rope.scaling.factor", GgufValue::F32(rope.factor));
      return absl::OkStatus();
    case RopeScaling::kYarn:
      if (rope.beta_fast != 32 || rope.beta_slow != 1 || !rope.truncate) {
        return Refuse("yarn has its own bounds");
      }
      set("rope.scaling.type", GgufValue::String("yarn"));
      set("rope.scaling.factor", GgufValue::F32(rope.factor));
      set("rope.scaling.original_context_length",
          GgufValue::U32(rope.original_max_position_embeddings));
      return absl::OkStatus();
    case RopeScaling::kLongRope:
      set("rope.scaling.original_context_length",
          GgufValue::U32(rope.original_max_position_embeddings));
      set("rope.scaling.attn_factor", GgufValue::F32(rope.attention_factor));
      return absl::OkStatus();
    case RopeScaling::kDynamic:
      break;
  }
  return Refuse("rotary scaling is dynamic");
}

// Positions at which the model and its readers agree: those without a window of their own see all.
int64_t ContextLength(const ModelConfig& config, bool reader_has_window) {
  if (reader_has_window || config.sliding_window == 0) return config.max_position_embeddings;
  return std::min(config.max_position_embeddings, config.sliding_window);
}

absl::Status AddTokenIds(KeyReader& keys, json& config) {
  for (const char* name : {"bos", "eos"}) {
    const std::string key = absl::StrCat("tokenizer.ggml.", name, "_token_id");
    if (keys.Has(key)) config[absl::StrCat(name, "_token_id")] = keys.Int(key);
  }
  // Some models end a turn with another token than a text.
  if (keys.Has("tokenizer.ggml.eot_token_id") && config.contains("eos_token_id")) {
    const int64_t eot = keys.Int("tokenizer.ggml.eot_token_id");
    if (config["eos_token_id"] != eot) config["eos_token_id"] = {config["eos_token_id"], eot};
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

absl::StatusOr<std::vector<float>> Floats(const GgufFile& file, absl::string_view name) {
  const GgufTensorView& tensor = *file.Find(name);
  if (tensor.type != kernels::GgufType::kF32 || tensor.shape.size() != 1) {
    return absl::DataLossError(absl::StrCat(file.path(), ": tensor ", name, " is no row of f32"));
  }
  std::vector<float> floats(static_cast<size_t>(tensor.shape[0]));
  std::memcpy(floats.data(), tensor.bytes.data(), tensor.bytes.size());
  return floats;
}

absl::Status AddRope(const GgufFile& file, KeyReader& keys, json& config) {
  config["rope_theta"] = keys.Has(".rope.freq_base") ? keys.Number(".rope.freq_base") : 10000.0;
  if (keys.Has(".rope.freq_base_swa")) {
    config["rope_local_base_freq"] = keys.Number(".rope.freq_base_swa");
  }
  json scaling = json::object();
  const std::string type =
      keys.Has(".rope.scaling.type") ? keys.Text(".rope.scaling.type") : "none";
  if (type == "linear" || type == "yarn") {
    scaling = {{"rope_type", type}, {"factor", keys.Number(".rope.scaling.factor")}};
  } else if (type != "none" && type != "longrope") {
    return absl::UnimplementedError(absl::StrCat(file.path(), ": rope.scaling.type is ",
                                                 Quoted(type),
                                                 "; none, linear, yarn and longrope are read"));
  }
  if (keys.Has(".rope.scaling.original_context_length")) {
    const int64_t length = keys.Int(".rope.scaling.original_context_length");
    if (!scaling.empty()) scaling["original_max_position_embeddings"] = length;
    config["original_max_position_embeddings"] = length;
  }
  // Whatever scaling they came from (llama3's, mostly): divisors of the frequencies.
  const bool one_list = file.Find(kLlama3Factors) != nullptr;
  if (one_list || file.Find(kLongFactors) != nullptr) {
    const char* short_name = one_list ? kLlama3Factors : kShortFactors;
    if (file.Find(short_name) == nullptr) {
      return absl::DataLossError(absl::StrCat(file.path(), ": tensor ", short_name, " is missing"));
    }
    QD_ASSIGN_OR_RETURN(const std::vector<float> near, Floats(file, short_name));
    QD_ASSIGN_OR_RETURN(const std::vector<float> far,
                        Floats(file, one_list ? kLlama3Factors : kLongFactors));
    scaling = {
        {"rope_type", "longrope"},
        {"short_factor", near},
        {"long_factor", far},
        {"factor", 1.0},
        {"attention_factor",
         keys.Has(".rope.scaling.attn_factor") ? keys.Number(".rope.scaling.attn_factor") : 1.0}};
  }
  if (!scaling.empty()) config["rope_scaling"] = scaling;
  return keys.status();
}

// What only some architectures have.
absl::Status AddVariants(const GgufArchitecture& row, KeyReader& keys, json& config) {
  const auto number = [&](const char* key, const char* field) {
    if (keys.Has(key)) config[field] = keys.Number(key);
  };
  const auto integer = [&](const char* key, const char* field) {
    if (keys.Has(key)) config[field] = keys.Int(key);
  };
  number(".attn_logit_softcapping", "attn_logit_softcapping");
  number(".final_logit_softcapping", "final_logit_softcapping");
  integer(".attention.sliding_window", "sliding_window");
  integer(".expert_used_count", "num_experts_per_tok");
  integer(".expert_feed_forward_length", "moe_intermediate_size");
  integer(".expert_count", "num_experts");
  integer(".expert_count", "num_local_experts");
  if (config.contains("num_experts")) config["norm_topk_prob"] = true;
  if (row.norms_plus_one) {
    const int64_t layers = config["num_hidden_layers"].get<int64_t>();
    const int64_t heads = std::max<int64_t>(1, config["num_attention_heads"].get<int64_t>());
    const bool largest = layers == 46 || layers == 62;
    config["query_pre_attn_scalar"] =
        largest ? config["hidden_size"].get<int64_t>() / heads : config["head_dim"].get<int64_t>();
  }
  if (row.model_type == "phi" && keys.Has(".rope.dimension_count")) {
    const int64_t head_dim = config["head_dim"].get<int64_t>();
    config["partial_rotary_factor"] = static_cast<double>(keys.Int(".rope.dimension_count")) /
                                      static_cast<double>(std::max<int64_t>(1, head_dim));
  }
  if (row.model_type == "gpt2") {
    config["n_embd"] = config["hidden_size"];
    config["n_inner"] = config["intermediate_size"];
    config["n_layer"] = config["num_hidden_layers"];
    config["n_head"] = config["num_attention_heads"];
    config["n_positions"] = config["max_position_embeddings"];
    for (const char* name : {"head_dim", "num_key_value_heads"}) config.erase(name);
  }
  // Phi's class knows no width of a head of its own.
  if (row.model_type == "phi") config.erase("head_dim");
  return keys.status();
}

std::optional<DType> PlainDType(kernels::GgufType type) {
  switch (type) {
    case kernels::GgufType::kF32:
      return DType::kF32;
    case kernels::GgufType::kF16:
      return DType::kF16;
    case kernels::GgufType::kBF16:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

}  // namespace

absl::StatusOr<GgufMetadata> GgufMetadataOf(const ModelConfig& config) {
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(config));
  QD_RETURN_IF_ERROR(CheckExpressible(config, *row));
  const std::string prefix = absl::StrCat(row->gguf, ".");
  GgufMetadata metadata;
  const Set set = [&](absl::string_view key, GgufValue value) {
    metadata.emplace(absl::StrCat(prefix, key), std::move(value));
  };
  const bool has_window = row->norms_plus_one || row->model_type == "phi3";
  metadata.emplace("general.architecture", GgufValue::String(std::string(row->gguf)));
  metadata.emplace("general.quantization_version", GgufValue::U32(2));
  set("vocab_size", GgufValue::U32(config.vocab_size));
  set("context_length", GgufValue::U32(ContextLength(config, has_window)));
  set("embedding_length", GgufValue::U32(config.hidden_size));
  set("block_count", GgufValue::U32(config.layers));
  set("feed_forward_length", GgufValue::U32(config.intermediate_size));
  set("attention.head_count", GgufValue::U32(config.heads));
  set("attention.head_count_kv", GgufValue::U32(config.kv_heads));
  set("attention.key_length", GgufValue::U32(config.head_dim));
  set("attention.value_length", GgufValue::U32(config.head_dim));
  set(row->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
      GgufValue::F32(config.norm_eps));
  if (has_window && config.sliding_window > 0) {
    set("attention.sliding_window", GgufValue::U32(config.sliding_window));
  }
  if (config.attention_softcap > 0) {
    set("attn_logit_softcapping", GgufValue::F32(config.attention_softcap));
  }
  if (config.final_softcap > 0) {
    set("final_logit_softcapping", GgufValue::F32(config.final_softcap));
  }
  if (config.experts > 0) {
    set("expert_count", GgufValue::U32(config.experts));
    set("expert_used_count", GgufValue::U32(config.experts_per_token));
    set("expert_feed_forward_length", GgufValue::U32(config.expert_intermediate_size));
  }
  if (row->rotary) QD_RETURN_IF_ERROR(SetRope(config, set));
  return metadata;
}

std::vector<GgufRopeFactors> RopeFactorsOf(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (rope.scaling == RopeScaling::kLongRope) {
    return {{kShortFactors, {rope.short_factor.begin(), rope.short_factor.end()}},
            {kLongFactors, {rope.long_factor.begin(), rope.long_factor.end()}}};
  }
  if (rope.scaling != RopeScaling::kLlama3) return {};
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  const int64_t dims = config.RotaryDim();
  std::vector<float> factors;
  for (int64_t i = 0; i < dims; i += 2) {
    const double exponent = static_cast<double>(i) / static_cast<double>(dims);
    const double wave = 2 * std::numbers::pi * std::pow(rope.theta, exponent);
    const double smooth =
        (context / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    const double between = 1 / ((1 - smooth) / rope.factor + smooth);
    const bool is_short = wave < context / rope.high_freq_factor;
    const bool is_long = wave > context / rope.low_freq_factor;
    factors.push_back(static_cast<float>(is_short ? 1 : is_long ? rope.factor : between));
  }
  return {{kLlama3Factors, std::move(factors)}};
}

bool IsRopeFactors(absl::string_view tensor_name) {
  return tensor_name == kLlama3Factors || tensor_name == kShortFactors ||
         tensor_name == kLongFactors;
}

absl::StatusOr<json> ConfigOfGguf(const GgufFile& file) {
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(file));
  KeyReader keys(file, row->gguf);
  const int64_t hidden = keys.Int(".embedding_length");
  const int64_t heads = keys.Int(".attention.head_count");
  json config = {{"architectures", {std::string(row->hf)}},
                 {"model_type", std::string(row->model_type)},
                 {"hidden_size", hidden},
                 {"intermediate_size", keys.Int(".feed_forward_length")},
                 {"num_hidden_layers", keys.Int(".block_count")},
                 {"num_attention_heads", heads},
                 {"max_position_embeddings", keys.Int(".context_length")},
                 {std::string(row->norm_eps),
                  keys.Number(row->layer_norm ? ".attention.layer_norm_epsilon"
                                              : ".attention.layer_norm_rms_epsilon")},
                 {"tie_word_embeddings", file.Find("output.weight") == nullptr},
                 {"attention_bias", file.Find("blk.0.attn_q.bias") != nullptr},
                 {"mlp_bias", file.Find("blk.0.ffn_up.bias") != nullptr},
                 {"quantization_config", {{"quant_method", "gguf"}, {"types", TypesOf(file)}}}};
  if (keys.Has(".attention.head_count_kv")) {
    config["num_key_value_heads"] = keys.Int(".attention.head_count_kv");
  }
  config["head_dim"] = keys.Has(".attention.key_length") ? keys.Int(".attention.key_length")
                                                         : hidden / std::max<int64_t>(1, heads);
  const GgufTensorView* embedding = file.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": tensor token_embd.weight is missing or no matrix"));
  }
  config["vocab_size"] = embedding->shape[0];
  if (row->rotary) QD_RETURN_IF_ERROR(AddRope(file, keys, config));
  QD_RETURN_IF_ERROR(AddTokenIds(keys, config));
  QD_RETURN_IF_ERROR(AddVariants(*row, keys, config));
  QD_RETURN_IF_ERROR(keys.status());
  return config;
}

absl::StatusOr<std::unique_ptr<GgufTensors>> GgufTensors::Open(const std::string& path) {
  std::unique_ptr<GgufTensors> tensors(new GgufTensors());
  QD_ASSIGN_OR_RETURN(tensors->file_, GgufFile::Open(path));
  QD_ASSIGN_OR_RETURN(const GgufArchitecture* row, GgufArchitectureOf(*tensors->file_));
  for (const std::string& name : tensors->file_->names()) {
    if (IsRopeFactors(name)) continue;
    QD_RETURN_IF_ERROR(tensors->Add(*row, name), path);
  }
  return tensors;
}

const TensorView* GgufTensors::Find(absl::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

absl::Status GgufTensors::AddOne(std::string name, TensorView view) {
  if (!tensors_.emplace(name, std::move(view)).second) {
    return absl::DataLossError(absl::StrCat("two tensors are ", Quoted(name)));
  }
  names_.push_back(std::move(name));
  return absl::OkStatus();
}

absl::Status GgufTensors::Add(const GgufArchitecture& row, const std::string& name) {
  const GgufTensorView& view = *file_->Find(name);
  const std::optional<GgufOrigin> origin = OriginOfGguf(row, name);
  const std::string module = origin ? origin->module : name;
  const std::optional<DType> plain = PlainDType(view.type);
  if (view.shape.size() == 1 && plain) {
    return AddOne(origin ? absl::StrCat(module, ".", origin->kind) : name,
                  {*plain, view.shape, view.bytes});
  }
  const bool experts = absl::StrContains(module, '*');
  if (view.shape.size() != (experts ? 3 : 2)) {
    return absl::DataLossError(absl::StrCat("tensor ", Quoted(name), " has the shape ",
                                            ShapeText(view.shape), ", but is no ",
                                            experts ? "stack of matrices" : "matrix"));
  }
  const std::string type(kernels::FindGgufBlock(view.type)->name);
  const int64_t count = experts ? view.shape[0] : 1;
  const int64_t rows = view.shape[view.shape.size() - 2];
  const size_t bytes = view.bytes.size() / static_cast<size_t>(count);
  for (int64_t i = 0; i < count; ++i) {
    const std::string one = absl::StrReplaceAll(module, {{"*", absl::StrCat(i)}});
    QD_RETURN_IF_ERROR(AddOne(absl::StrCat(one, ".", kGgufBlocksKind, type),
                              {DType::kU8,
                               {rows, static_cast<int64_t>(bytes) / rows},
                               view.bytes.subspan(static_cast<size_t>(i) * bytes, bytes)}));
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
