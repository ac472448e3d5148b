// The table of architectures, and names as functions of it.
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "workers/engine/checkpoint/gguf_model.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

constexpr GgufNames kOuter[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
constexpr GgufNames kLlamaBlock[] = {
    {"input_layernorm", "attn_norm"},     {"self_attn.q_proj", "attn_q", true},
    {"self_attn.k_proj", "attn_k", true}, {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},  {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},        {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};
constexpr GgufNames kMixtralBlock[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q", true},
    {"self_attn.k_proj", "attn_k", true},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"block_sparse_moe.gate", "ffn_gate_inp"},
    {"block_sparse_moe.experts.*.w1", "ffn_gate_exps"},
    {"block_sparse_moe.experts.*.w3", "ffn_up_exps"},
    {"block_sparse_moe.experts.*.w2", "ffn_down_exps"},
};
constexpr GgufNames kQwenBlock[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"mlp.gate", "ffn_gate_inp"},
    {"mlp.experts.*.gate_proj", "ffn_gate_exps"},
    {"mlp.experts.*.up_proj", "ffn_up_exps"},
    {"mlp.experts.*.down_proj", "ffn_down_exps"},
};
constexpr GgufNames kGpt2Outer[] = {{"transformer.wte", "token_embd"},
                                    {"transformer.wpe", "position_embd"},
                                    {"transformer.ln_f", "output_norm"},
                                    {"lm_head", "output"}};
constexpr GgufNames kGpt2Block[] = {
    {"ln_1", "attn_norm"}, {"attn.c_attn", "attn_qkv"}, {"attn.c_proj", "attn_output"},
    {"ln_2", "ffn_norm"},  {"mlp.c_fc", "ffn_up"},      {"mlp.c_proj", "ffn_down"},
};
constexpr GgufNames kPhiOuter[] = {{"model.embed_tokens", "token_embd"},
                                   {"model.final_layernorm", "output_norm"},
                                   {"lm_head", "output"}};
constexpr GgufNames kPhiBlock[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.dense", "attn_output"},
    {"mlp.fc1", "ffn_up"},
    {"mlp.fc2", "ffn_down"},
};
constexpr GgufNames kPhi3Block[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_up_proj", "ffn_up"},      {"mlp.down_proj", "ffn_down"},
};
constexpr GgufNames kGemmaBlock[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
};

// Read from GGUF the first row of a name counts, but a llama with experts is a Mixtral; Mistral
// without its window is a Llama.
constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "LlamaForCausalLM", "llama", kOuter, kLlamaBlock},
    {"llama", "MistralForCausalLM", "mistral", kOuter, kLlamaBlock},
    {"llama", "MixtralForCausalLM", "mixtral", kOuter, kMixtralBlock},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", kOuter, kQwenBlock},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", kOuter, kQwenBlock},
    {"qwen3moe", "Qwen3MoeForCausalLM", "qwen3_moe", kOuter, kQwenBlock},
    {.gguf = "gpt2",
     .hf = "GPT2LMHeadModel",
     .model_type = "gpt2",
     .outer = kGpt2Outer,
     .block = kGpt2Block,
     .block_prefix = "transformer.h.",
     .norm_eps = "layer_norm_epsilon",
     .layer_norm = true,
     .rotary = false},
    {.gguf = "phi2",
     .hf = "PhiForCausalLM",
     .model_type = "phi",
     .outer = kPhiOuter,
     .block = kPhiBlock,
     .norm_eps = "layer_norm_eps",
     .layer_norm = true},
    {"phi3", "Phi3ForCausalLM", "phi3", kOuter, kPhi3Block},
    {.gguf = "gemma2",
     .hf = "Gemma2ForCausalLM",
     .model_type = "gemma2",
     .outer = kOuter,
     .block = kGemmaBlock,
     .norms_plus_one = true},
    {.gguf = "gemma3",
     .hf = "Gemma3ForCausalLM",
     .model_type = "gemma3_text",
     .outer = kOuter,
     .block = kGemmaBlock,
     .norms_plus_one = true},
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

// Whether `name` is `pattern` with a number for the "*", if it has one.
bool Matches(absl::string_view pattern, absl::string_view name, int64_t* number) {
  const size_t star = pattern.find('*');
  if (star == absl::string_view::npos) return pattern == name;
  return absl::ConsumePrefix(&name, pattern.substr(0, star)) &&
         absl::ConsumeSuffix(&name, pattern.substr(star + 1)) && absl::SimpleAtoi(name, number) &&
         *number >= 0;
}

}  // namespace

absl::Span<const GgufArchitecture> GgufArchitectures() { return kArchitectures; }

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
  const bool mixtral = *name == "llama" && file.Find("blk.0.ffn_gate_inp.weight") != nullptr;
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.gguf == *name && (!mixtral || row.model_type == "mixtral")) return &row;
  }
  return absl::UnimplementedError(absl::StrCat(file.path(), ": general.architecture is ",
                                               Quoted(*name), "; this engine reads those of ",
                                               KnownArchitectures()));
}

absl::StatusOr<GgufPlace> PlaceInGguf(const GgufArchitecture& row, absl::string_view module,
                                      absl::string_view kind) {
  absl::string_view rest = module;
  int64_t layer = -1;
  const bool in_block = SplitBlock(row.block_prefix, module, &layer, &rest);
  for (const GgufNames& names : in_block ? row.block : row.outer) {
    GgufPlace place;
    if (!Matches(names.hf, rest, &place.expert)) continue;
    place.name =
        absl::StrCat(in_block ? absl::StrCat("blk.", layer, ".") : "", names.gguf, ".", kind);
    place.paired_rows = names.paired_rows;
    place.plus_one = row.norms_plus_one && absl::EndsWith(names.gguf, "norm");
    return place;
  }
  return absl::NotFoundError(
      absl::StrCat("GGUF's architecture ", row.gguf, " has no name for ", module, ".", kind));
}

std::optional<GgufOrigin> OriginOfGguf(const GgufArchitecture& row, absl::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == absl::string_view::npos) return std::nullopt;
  const std::string kind(name.substr(dot + 1));
  absl::string_view rest = name.substr(0, dot);
  int64_t layer = -1;
  const bool in_block = SplitBlock("blk.", rest, &layer, &rest);
  for (const GgufNames& names : in_block ? row.block : row.outer) {
    if (names.gguf != rest) continue;
    return GgufOrigin{
        absl::StrCat(in_block ? absl::StrCat(row.block_prefix, layer, ".") : "", names.hf), kind};
  }
  return std::nullopt;
}

}  // namespace quantd::engine
