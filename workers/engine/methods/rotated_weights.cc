// See rotated_weights.h.
#include "workers/engine/methods/rotated_weights.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "workers/engine/models/architecture.h"
#include "workers/engine/models/online_rotation.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// Rows of a large table (embedding, head) that are in float64 at a time.
constexpr int64_t kRowsAtATime = 8192;

}  // namespace

struct RotatedWeights::Part {
  bool norm = false;           // A norm's weight: becomes neutral.
  bool reads_stream = false;   // Input columns: norm folded in and R.
  bool writes_stream = false;  // Output rows (and bias): R.
  bool bias = false;
  std::string norm_name;  // The norm in front, where reads_stream; empty: none (embedding).
  // Value rows [begin, begin + count) of the output side, or all input columns when `value_inputs`.
  int64_t value_begin = 0, value_count = 0;
  bool value_inputs = false;
  int64_t inner_block = 0;  // Input columns turned at run time, in blocks of it; 0: not.
};

absl::Status CheckRotatable(const ModelConfig& config, const Architecture& row) {
  absl::string_view reason;
  if (row.norm == NormKind::kLayer) {
    reason = "its norms subtract the mean, which a rotation does not keep";
  } else if (!row.attention_post_norm.empty() || !row.mlp_post_norm.empty()) {
    reason = "its branches end in a norm, whose weight cannot be moved past a rotation";
  } else if (!row.position_embedding.empty()) {
    reason = "it adds learned positions";
  }
  if (reason.empty()) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("architecture ", row.name, " cannot be rotated: ",
                                               reason, "; use method gptq, awq or adaround"));
}

RotatedWeights::RotatedWeights(const ModelConfig& config, const Architecture& row,
                               std::shared_ptr<const WeightSource> base, Rotation stream,
                               Rotation values, bool online)
    : config_(config),
      row_(row),
      base_(std::move(base)),
      stream_(std::move(stream)),
      values_(std::move(values)),
      online_(online) {}

// A tied head is read from the embedding.
std::string RotatedWeights::BaseName(absl::string_view name) const {
  return std::string(config_.tie_word_embeddings && name == row_.head ? row_.embedding : name);
}

bool RotatedWeights::Has(absl::string_view name) const { return base_->Has(BaseName(name)); }

absl::StatusOr<std::vector<int64_t>> RotatedWeights::Shape(absl::string_view name) const {
  return base_->Shape(BaseName(name));
}

void RotatedWeights::Release(absl::string_view name) const { base_->Release(BaseName(name)); }

std::string RotatedWeights::Where(absl::string_view name) const {
  return base_->Where(BaseName(name));
}

absl::StatusOr<DType> RotatedWeights::StoredType(absl::string_view name) const {
  return base_->StoredType(BaseName(name));
}

InputQuantization RotatedWeights::InputRounding(absl::string_view name) const {
  const Part part = PartOf(name);
  return {.rotation = part.bias ? 0 : part.inner_block};
}

RotatedWeights::Part RotatedWeights::PartOf(absl::string_view name) const {
  Part part;
  if (name == row_.embedding) {
    part.reads_stream = true;  // Its rows are vectors of the stream.
    return part;
  }
  if (name == row_.head) {
    part.reads_stream = true;
    part.norm_name = std::string(row_.final_norm);
    return part;
  }
  if (name == row_.final_norm) {
    part.norm = true;
    return part;
  }
  absl::string_view rest = name;
  int64_t layer = 0;
  if (!absl::ConsumePrefix(&rest, row_.block_prefix)) return part;
  const size_t dot = rest.find('.');
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(rest.substr(0, dot), &layer)) return part;
  const std::string prefix = BlockPrefix(row_, layer);
  rest.remove_prefix(dot + 1);
  part.norm = rest == row_.attention_norm || rest == row_.mlp_norm;
  part.bias = absl::EndsWith(rest, ".bias");
  const absl::string_view module = rest.substr(0, rest.rfind('.'));
  const auto reads = [&](absl::string_view norm) {
    part.reads_stream = true;
    part.norm_name = absl::StrCat(prefix, norm);
  };
  if (!row_.router.empty() && rest == row_.router) reads(row_.mlp_norm);
  for (const LinearShape& linear : Linears(config_, row_, layer)) {
    if (linear.module != module) continue;
    if (linear.group == 0) reads(row_.attention_norm);
    if (linear.group >= 2 && linear.group % 2 == 0) reads(row_.mlp_norm);
    part.writes_stream = linear.group % 2 == 1;
    if (online_ && part.writes_stream && linear.group > 1) {
      part.inner_block = OnlineBlock(linear.in);
    }
    const int64_t width = config_.kv_heads * config_.head_dim;
    if (module == row_.v || (!row_.qkv.empty() && module == row_.qkv)) {
      part.value_begin = linear.out - width;
      part.value_count = width;
    }
    part.value_inputs = module == row_.output;
  }
  return part;
}

// stored [N, K] or, for a bias, [N]; all float64. `norm` [K]: the weight of the norm in front.
absl::StatusOr<at::Tensor> RotatedWeights::Rotate(const Part& part, const at::Tensor& stored,
                                                  const at::Tensor& norm) const {
  at::Tensor weight = part.bias ? stored.unsqueeze(1) : stored;
  if (!part.bias && part.reads_stream) {
    weight = stream_.Apply(norm.defined() ? weight * norm : weight);
  }
  if (!part.bias && part.value_inputs) {
    weight = values_.Apply(weight.reshape({weight.size(0), -1, config_.head_dim}))
                 .reshape(weight.sizes());
  }
  if (!part.bias) weight = RotateOnline(weight, part.inner_block);
  if (part.value_count > 0) {
    weight = weight.clone();
    at::Tensor rows = weight.narrow(0, part.value_begin, part.value_count);
    const at::Tensor heads = rows.reshape({config_.kv_heads, config_.head_dim, -1}).transpose(1, 2);
    rows.copy_(values_.Apply(heads).transpose(1, 2).reshape(rows.sizes()));
  }
  if (part.writes_stream) weight = stream_.Apply(weight.t()).t();
  return part.bias ? weight.squeeze(1) : weight;
}

absl::StatusOr<at::Tensor> RotatedWeights::Read(absl::string_view name) const {
  const std::string base_name = BaseName(name);
  QD_ASSIGN_OR_RETURN(const at::Tensor stored, base_->Read(base_name));
  const Part part = PartOf(name);
  const double one = row_.norm == NormKind::kRmsPlusOne ? 0 : 1;
  if (part.norm) {
    return TorchCall("making a norm neutral",
                     [&] { return at::full(stored.sizes(), one, at::kFloat); });
  }
  at::Tensor norm;
  if (!part.norm_name.empty()) {
    QD_ASSIGN_OR_RETURN(norm, base_->Read(part.norm_name));
  }
  return TorchCall(absl::StrCat("rotating ", name), [&]() -> absl::StatusOr<at::Tensor> {
    if (norm.defined()) norm = norm.to(at::kDouble) + (1 - one);
    const bool whole = part.writes_stream || part.value_count > 0 || part.bias;
    if (whole || stored.dim() != 2) {
      QD_ASSIGN_OR_RETURN(const at::Tensor rotated, Rotate(part, stored.to(at::kDouble), norm));
      return rotated.to(at::kFloat).contiguous();
    }
    at::Tensor result = at::empty(stored.sizes(), at::kFloat);
    for (int64_t begin = 0; begin < stored.size(0); begin += kRowsAtATime) {
      const int64_t count = std::min(kRowsAtATime, stored.size(0) - begin);
      QD_ASSIGN_OR_RETURN(const at::Tensor rotated,
                          Rotate(part, stored.narrow(0, begin, count).to(at::kDouble), norm));
      result.narrow(0, begin, count).copy_(rotated);
    }
    return result;
  });
}

}  // namespace quantd::engine
