// What a row and a config together say about tensors.
#include "workers/engine/models/architecture.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace quantd::engine {
namespace {

// The tensors of one norm.
void AddNorm(const std::string& prefix, absl::string_view weight, int64_t size,
             const Architecture& row, std::vector<ExpectedTensor>& tensors) {
  if (weight.empty()) return;
  tensors.push_back({absl::StrCat(prefix, weight), {size}});
  if (row.norm == NormKind::kLayer) {
    tensors.push_back({absl::StrCat(prefix, ModuleOf(weight), ".bias"), {size}});
  }
}

// gate, up and down, whichever there are, of an MLP or an expert.
struct MlpNames {
  std::string gate, up, gate_up, down;
};
void AddMlp(const MlpNames& names, const ModelConfig& config, int64_t inner,
            const LinearShape& like, std::vector<LinearShape>& linears) {
  const auto add = [&](const std::string& name, int64_t out, int64_t in, int group) {
    LinearShape& linear = linears.emplace_back(like);
    linear.module = name;
    linear.out = out;
    linear.in = in;
    linear.group = group;
  };
  if (!names.gate_up.empty()) {
    add(names.gate_up, 2 * inner, config.hidden_size, like.group);
  } else {
    if (!names.gate.empty()) add(names.gate, inner, config.hidden_size, like.group);
    add(names.up, inner, config.hidden_size, like.group);
  }
  add(names.down, config.hidden_size, inner, like.group + 1);
}

}  // namespace

bool Has(When when, const ModelConfig& config) {
  switch (when) {
    case When::kNever:
      return false;
    case When::kAlways:
      return true;
    case When::kAttentionBias:
      return config.attention_bias;
    case When::kMlpBias:
      return config.mlp_bias;
    case When::kQkLayernorm:
      return config.qk_layernorm;
  }
  return false;
}

absl::string_view ModuleOf(absl::string_view weight_name) {
  return absl::StripSuffix(weight_name, ".weight");
}

absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view architecture,
                                                     absl::string_view model_type) {
  for (const Architecture& row : Architectures()) {
    const bool named = !architecture.empty();
    if (named ? row.name == architecture : row.model_type == model_type) return &row;
  }
  return absl::UnimplementedError(absl::StrCat(
      "architecture \"", architecture.empty() ? model_type : architecture,
      "\" is not supported; supported: ",
      absl::StrJoin(Architectures(), ", ", [](std::string* out, const Architecture& row) {
        absl::StrAppend(out, row.name);
      })));
}

absl::StatusOr<const Architecture*> FindArchitecture(const ModelConfig& config) {
  return FindArchitecture(config.architecture, config.model_type);
}

std::vector<LinearShape> Linears(const ModelConfig& config, const Architecture& row,
                                 int64_t layer) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.heads * config.head_dim;
  const int64_t kv = config.kv_heads * config.head_dim;
  const bool qkv_bias = Has(row.qkv_bias, config);
  const bool output_bias = Has(row.output_bias, config);
  const bool mlp_bias = Has(row.mlp_bias, config);
  std::vector<LinearShape> linears;
  const auto add = [&](absl::string_view name, int64_t out, int64_t in, bool bias, int group) {
    linears.push_back(
        {.module = std::string(name), .out = out, .in = in, .has_bias = bias, .group = group});
  };
  if (!row.qkv.empty()) {
    add(row.qkv, q + 2 * kv, hidden, qkv_bias, 0);
  } else {
    add(row.q, q, hidden, qkv_bias, 0);
    add(row.k, kv, hidden, qkv_bias, 0);
    add(row.v, kv, hidden, qkv_bias, 0);
  }
  add(row.output, hidden, q, output_bias, 1);
  if (!config.HasExperts(layer)) {
    AddMlp({std::string(row.gate), std::string(row.up), std::string(row.gate_up),
            std::string(row.down)},
           config, config.intermediate_size, {.module = "", .has_bias = mlp_bias, .group = 2},
           linears);
    return linears;
  }
  for (int64_t expert = 0; expert < config.experts; ++expert) {
    const std::string prefix = absl::StrCat(row.experts, expert, ".");
    AddMlp({absl::StrCat(prefix, row.expert_gate), absl::StrCat(prefix, row.expert_up), "",
            absl::StrCat(prefix, row.expert_down)},
           config, config.expert_intermediate_size,
           {.module = "",
            .has_bias = mlp_bias,
            .group = static_cast<int>(2 + 2 * expert),
            .expert = expert},
           linears);
  }
  return linears;
}

std::string BlockPrefix(const Architecture& row, int64_t layer) {
  return absl::StrCat(row.block_prefix, layer, ".");
}

std::vector<ExpectedTensor> BlockTensors(const ModelConfig& config, const Architecture& row,
                                         int64_t layer) {
  const std::string prefix = BlockPrefix(row, layer);
  std::vector<ExpectedTensor> tensors;
  for (const absl::string_view norm :
       {row.attention_norm, row.attention_post_norm, row.mlp_norm, row.mlp_post_norm}) {
    AddNorm(prefix, norm, config.hidden_size, row, tensors);
  }
  if (Has(row.qk_norm, config)) {
    AddNorm(prefix, row.q_norm, config.head_dim, row, tensors);
    AddNorm(prefix, row.k_norm, config.head_dim, row, tensors);
  }
  if (config.HasExperts(layer)) {
    tensors.push_back({absl::StrCat(prefix, row.router), {config.experts, config.hidden_size}});
  }
  for (const LinearShape& linear : Linears(config, row, layer)) {
    tensors.push_back({absl::StrCat(prefix, linear.module, ".weight"), {linear.out, linear.in}});
    if (linear.has_bias) {
      tensors.push_back({absl::StrCat(prefix, linear.module, ".bias"), {linear.out}});
    }
  }
  return tensors;
}

bool IsStoredTransposed(const Architecture& row, const TensorInfo& tensor) {
  const bool floating =
      tensor.dtype == DType::kF32 || tensor.dtype == DType::kF16 || tensor.dtype == DType::kBF16;
  // Norms have one dimension; nothing but linears has two.
  return row.transposed && floating && tensor.shape.size() == 2 &&
         absl::StartsWith(tensor.name, row.block_prefix) && absl::EndsWith(tensor.name, ".weight");
}

std::vector<int64_t> StoredShape(const Architecture& row, const TensorInfo& tensor) {
  if (!IsStoredTransposed(row, tensor)) return tensor.shape;
  return {tensor.shape.rbegin(), tensor.shape.rend()};
}

std::vector<ExpectedTensor> OuterTensors(const ModelConfig& config, const Architecture& row) {
  std::vector<ExpectedTensor> tensors = {
      {std::string(row.embedding), {config.vocab_size, config.hidden_size}}};
  if (!row.position_embedding.empty()) {
    tensors.push_back({std::string(row.position_embedding),
                       {config.max_position_embeddings, config.hidden_size}});
  }
  AddNorm("", row.final_norm, config.hidden_size, row, tensors);
  if (!config.tie_word_embeddings) {
    tensors.push_back({std::string(row.head), {config.vocab_size, config.hidden_size}});
  }
  if (row.head_bias) {
    tensors.push_back({absl::StrCat(ModuleOf(row.head), ".bias"), {config.vocab_size}});
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
  int64_t count = 0;
  for (const ExpectedTensor& tensor : ExpectedTensors(config, row)) {
    count += ElementCount(tensor.shape).value_or(0);
  }
  return count;
}

}  // namespace quantd::engine
