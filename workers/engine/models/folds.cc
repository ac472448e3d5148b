// norm -> q, k, v; values -> output; norm -> MLP; up -> down, from the row's names.
#include "workers/engine/models/folds.h"

#include <numeric>

#include "absl/strings/str_cat.h"

namespace quantd::engine {
namespace {

// Rows first, first + 1, ...
std::vector<int64_t> Straight(int64_t first, int64_t count) {
  std::vector<int64_t> rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

// Column (head, d) of the output layer reads dimension d of the value head that the query's head
// shares with its group.
std::vector<int64_t> ValueRows(const ModelConfig& config, int64_t first) {
  std::vector<int64_t> rows;
  const int64_t group = config.heads / config.kv_heads;
  for (int64_t head = 0; head < config.heads; ++head) {
    for (int64_t d = 0; d < config.head_dim; ++d) {
      rows.push_back(first + head / group * config.head_dim + d);
    }
  }
  return rows;
}

Fold NormFold(absl::string_view norm, absl::string_view inspected, const ModelConfig& config) {
  return {.previous = std::string(ModuleOf(norm)),
          .previous_is_norm = true,
          .linears = {},
          .others = {},
          .inspected = std::string(inspected),
          .row_of_column = Straight(0, config.hidden_size)};
}

// The linears that read the block's input and those that read the MLP's.
void AddReaders(const std::vector<LinearShape>& linears, bool of_mlp, Fold& fold) {
  for (const LinearShape& linear : linears) {
    const bool first_of_mlp = linear.group >= 2 && linear.group % 2 == 0;
    if (of_mlp ? first_of_mlp : linear.group == 0) fold.linears.push_back(linear.module);
  }
}

Fold ValueFold(const ModelConfig& config, const Architecture& row) {
  const bool fused = !row.qkv.empty();
  const int64_t first = fused ? (config.heads + config.kv_heads) * config.head_dim : 0;
  return {.previous = std::string(fused ? row.qkv : row.v),
          .linears = {std::string(row.output)},
          .others = {},
          .inspected = std::string(row.output),
          .row_of_column = ValueRows(config, first)};
}

void AddUpFolds(const ModelConfig& config, const Architecture& row, int64_t layer,
                std::vector<Fold>& folds) {
  const auto add = [&](std::string previous, int64_t first, int64_t inner, std::string down) {
    folds.push_back({.previous = std::move(previous),
                     .linears = {down},
                     .others = {},
                     .inspected = down,
                     .row_of_column = Straight(first, inner)});
  };
  if (config.HasExperts(layer)) {
    for (int64_t expert = 0; expert < config.experts; ++expert) {
      const std::string prefix = absl::StrCat(row.experts, expert, ".");
      add(absl::StrCat(prefix, row.expert_up), 0, config.expert_intermediate_size,
          absl::StrCat(prefix, row.expert_down));
    }
  } else if (!row.gate_up.empty()) {
    add(std::string(row.gate_up), config.intermediate_size, config.intermediate_size,
        std::string(row.down));
  } else if (!row.gate.empty()) {
    add(std::string(row.up), 0, config.intermediate_size, std::string(row.down));
  }
}

}  // namespace

std::vector<Fold> Folds(const ModelConfig& config, const Architecture& row, int64_t layer) {
  const std::vector<LinearShape> linears = Linears(config, row, layer);
  std::vector<Fold> folds;
  Fold attention =
      NormFold(row.attention_norm, row.parallel ? absl::string_view() : row.attention, config);
  AddReaders(linears, /*of_mlp=*/false, attention);
  if (row.parallel) AddReaders(linears, /*of_mlp=*/true, attention);
  folds.push_back(std::move(attention));
  folds.push_back(ValueFold(config, row));
  if (!row.parallel) {
    Fold mlp = NormFold(row.mlp_norm, row.mlp, config);
    AddReaders(linears, /*of_mlp=*/true, mlp);
    if (config.HasExperts(layer)) mlp.others.emplace_back(ModuleOf(row.router));
    folds.push_back(std::move(mlp));
  }
  AddUpFolds(config, row, layer, folds);
  return folds;
}

}  // namespace quantd::engine
