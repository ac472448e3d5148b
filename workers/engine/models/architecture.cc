// The table. A row's order of fields is that of the struct; names differ from the defaults only
// where written.
#include "workers/engine/models/architecture.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantd::engine {
namespace {

constexpr Architecture kArchitectures[] = {
    {.name = "LlamaForCausalLM",
     .model_type = "llama",
     .qkv_bias = Bias::kAttentionBias,
     .output_bias = Bias::kAttentionBias,
     .mlp_bias = Bias::kMlpBias,
     .qk_norm = false},
    {.name = "MistralForCausalLM",
     .model_type = "mistral",
     .qkv_bias = Bias::kNever,
     .output_bias = Bias::kNever,
     .mlp_bias = Bias::kNever,
     .qk_norm = false},
    {.name = "Qwen2ForCausalLM",
     .model_type = "qwen2",
     .qkv_bias = Bias::kAlways,
     .output_bias = Bias::kNever,
     .mlp_bias = Bias::kNever,
     .qk_norm = false},
    {.name = "Qwen3ForCausalLM",
     .model_type = "qwen3",
     .qkv_bias = Bias::kAttentionBias,
     .output_bias = Bias::kAttentionBias,
     .mlp_bias = Bias::kNever,
     .qk_norm = true},
};

bool HasBias(Bias bias, const ModelConfig& config) {
  switch (bias) {
    case Bias::kNever:
      return false;
    case Bias::kAlways:
      return true;
    case Bias::kAttentionBias:
      return config.attention_bias;
    case Bias::kMlpBias:
      return config.mlp_bias;
  }
  return false;
}

}  // namespace

absl::Span<const Architecture> Architectures() { return kArchitectures; }

absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view architecture,
                                                     absl::string_view model_type) {
  for (const Architecture& row : kArchitectures) {
    const bool named = !architecture.empty();
    if (named ? row.name == architecture : row.model_type == model_type) return &row;
  }
  return absl::UnimplementedError(absl::StrCat(
      "architecture \"", architecture.empty() ? model_type : architecture,
      "\" is not supported; supported: ",
      absl::StrJoin(kArchitectures, ", ", [](std::string* out, const Architecture& row) {
        absl::StrAppend(out, row.name);
      })));
}

absl::StatusOr<const Architecture*> FindArchitecture(const ModelConfig& config) {
  return FindArchitecture(config.architecture, config.model_type);
}

std::vector<LinearShape> Linears(const ModelConfig& config, const Architecture& row) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim;
  const int64_t kv = config.kv_heads * config.head_dim;
  const bool qkv_bias = HasBias(row.qkv_bias, config);
  const bool output_bias = HasBias(row.output_bias, config);
  const bool mlp_bias = HasBias(row.mlp_bias, config);
  return {
      {.module = "self_attn.q_proj", .out = q, .in = hidden, .has_bias = qkv_bias, .group = 0},
      {.module = "self_attn.k_proj", .out = kv, .in = hidden, .has_bias = qkv_bias, .group = 0},
      {.module = "self_attn.v_proj", .out = kv, .in = hidden, .has_bias = qkv_bias, .group = 0},
      {.module = "self_attn.o_proj", .out = hidden, .in = q, .has_bias = output_bias, .group = 1},
      {.module = "mlp.gate_proj", .out = inner, .in = hidden, .has_bias = mlp_bias, .group = 2},
      {.module = "mlp.up_proj", .out = inner, .in = hidden, .has_bias = mlp_bias, .group = 2},
      {.module = "mlp.down_proj", .out = hidden, .in = inner, .has_bias = mlp_bias, .group = 3},
  };
}

std::string BlockPrefix(const Architecture& row, int64_t layer) {
  return absl::StrCat(row.block_prefix, layer, ".");
}

std::vector<ExpectedTensor> BlockTensors(const ModelConfig& config, const Architecture& row,
                                         int64_t layer) {
  const std::string prefix = BlockPrefix(row, layer);
  std::vector<ExpectedTensor> tensors = {
      {absl::StrCat(prefix, row.attention_norm), {config.hidden_size}},
      {absl::StrCat(prefix, row.mlp_norm), {config.hidden_size}}};
  if (row.qk_norm) {
    tensors.push_back({absl::StrCat(prefix, row.q_norm), {config.head_dim}});
    tensors.push_back({absl::StrCat(prefix, row.k_norm), {config.head_dim}});
  }
  for (const LinearShape& linear : Linears(config, row)) {
    tensors.push_back({absl::StrCat(prefix, linear.module, ".weight"), {linear.out, linear.in}});
    if (linear.has_bias) {
      tensors.push_back({absl::StrCat(prefix, linear.module, ".bias"), {linear.out}});
    }
  }
  return tensors;
}

std::vector<ExpectedTensor> OuterTensors(const ModelConfig& config, const Architecture& row) {
  std::vector<ExpectedTensor> tensors = {
      {std::string(row.embedding), {config.vocab_size, config.hidden_size}},
      {std::string(row.final_norm), {config.hidden_size}}};
  if (!config.tie_word_embeddings) {
    tensors.push_back({std::string(row.head), {config.vocab_size, config.hidden_size}});
  }
  return tensors;
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config, const Architecture& row) {
  std::vector<ExpectedTensor> tensors = OuterTensors(config, row);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (ExpectedTensor& tensor : BlockTensors(config, row, layer)) {
      tensors.push_back(std::move(tensor));
    }
  }
  return tensors;
}

int64_t ParameterCount(const ModelConfig& config, const Architecture& row) {
  const auto sum = [](const std::vector<ExpectedTensor>& tensors) {
    int64_t count = 0;
    for (const ExpectedTensor& tensor : tensors) count += ElementCount(tensor.shape).value_or(0);
    return count;
  };
  return sum(OuterTensors(config, row)) + config.layers * sum(BlockTensors(config, row, 0));
}

}  // namespace quantd::engine
