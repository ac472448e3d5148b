// MLPs with and without a gate, and mixtures of them.
#include <ATen/ops/linear.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>

#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/models/layer.h"

namespace quantd::engine {

namespace {

LinearInput Gated(const Activation& activation, const at::Tensor& gate, const at::Tensor& up) {
  return LinearInput(
      gate, [=] { return activation.Gate(gate, up); },
      [=](const InputQuantization& wanted) { return activation.GateToInt8(gate, up, wanted); });
}

// What the MLP's last linear reads.
absl::StatusOr<LinearInput> Inner(const LayerPass& pass, const MlpModules& modules,
                                  const LinearInput& input) {
  if (!modules.gate_up.empty()) {
    QD_ASSIGN_OR_RETURN(const at::Tensor both, pass.Apply(modules.gate_up, input));
    const int64_t half = both.size(-1) / 2;
    return Gated(pass.activation, both.narrow(-1, 0, half), both.narrow(-1, half, half));
  }
  if (!modules.gate.empty()) {
    QD_ASSIGN_OR_RETURN(const at::Tensor gate, pass.Apply(modules.gate, input));
    QD_ASSIGN_OR_RETURN(const at::Tensor up, pass.Apply(modules.up, input));
    return Gated(pass.activation, gate, up);
  }
  QD_ASSIGN_OR_RETURN(const at::Tensor up, pass.Apply(modules.up, input));
  return pass.activation.apply(up);
}

}  // namespace

absl::StatusOr<at::Tensor> Mlp(const LayerPass& pass, const MlpModules& modules,
                               const LinearInput& input) {
  QD_ASSIGN_OR_RETURN(const LinearInput inner, Inner(pass, modules, input));
  return pass.Apply(modules.down, inner);
}

absl::StatusOr<at::Tensor> MixtureOfExperts(const LayerPass& pass, const at::Tensor& normed) {
  const ModelConfig& config = pass.config;
  const Architecture& row = pass.row;
  const at::Tensor tokens = normed.reshape({-1, config.hidden_size});
  const at::Tensor& router = pass.block.linear(ModuleOf(row.router)).weight;
  const at::Tensor probabilities = at::softmax(at::linear(tokens, router), -1, at::kFloat);
  at::Tensor weights, chosen;  // [tokens, experts_per_token]
  std::tie(weights, chosen) = at::topk(probabilities, config.experts_per_token, -1);
  if (config.normalize_expert_weights) weights = weights / weights.sum(-1, /*keepdim=*/true);
  at::Tensor output = at::zeros_like(tokens);
  for (int64_t expert = 0; expert < config.experts; ++expert) {
    const at::Tensor places = (chosen == expert).nonzero();  // [n, 2]: token, rank.
    if (places.size(0) == 0) continue;
    const at::Tensor routed = places.select(1, 0);
    const at::Tensor weight = weights.index({routed, places.select(1, 1)}).unsqueeze(1);
    const std::string prefix = absl::StrCat(row.experts, expert, ".");
    const std::string gate = absl::StrCat(prefix, row.expert_gate);
    const std::string up = absl::StrCat(prefix, row.expert_up);
    const std::string down = absl::StrCat(prefix, row.expert_down);
    QD_ASSIGN_OR_RETURN(const at::Tensor mixed,
                        Mlp(pass, {.gate = gate, .up = up, .gate_up = "", .down = down},
                            tokens.index_select(0, routed)));
    // A token chooses an expert at most once, so that no two rows meet.
    output.index_add_(0, routed, (mixed * weight).to(output.scalar_type()));
  }
  return output.view(normed.sizes());
}

absl::StatusOr<at::Tensor> FeedForward(const LayerPass& pass, const LinearInput& normed,
                                       const at::Tensor& residual) {
  if (pass.config.HasExperts(pass.block.layer())) {
    QD_ASSIGN_OR_RETURN(at::Tensor mixed, MixtureOfExperts(pass, normed.values()));
    return residual.defined() ? residual + mixed : mixed;
  }
  const Architecture& row = pass.row;
  const MlpModules modules = {
      .gate = row.gate, .up = row.up, .gate_up = row.gate_up, .down = row.down};
  QD_ASSIGN_OR_RETURN(const LinearInput inner,
                      pass.At(BlockPoint::kInner, [&] { return Inner(pass, modules, normed); }));
  return pass.Apply(row.down, inner, residual);
}

}  // namespace quantd::engine
