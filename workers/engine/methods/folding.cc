// See folding.h.
#include "workers/engine/methods/folding.h"

#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

at::Tensor RowsOf(const Fold& fold) { return at::tensor(fold.row_of_column, at::kLong); }

// One scale a row of the previous layer, 1 where no column reads it.
at::Tensor RowScales(const Fold& fold, const at::Tensor& scales, int64_t rows) {
  at::Tensor result = at::ones({rows}, at::kFloat);
  result.index_copy_(0, RowsOf(fold), scales);
  return result;
}

// What the norm's stored weight divides by in the end.
absl::StatusOr<at::Tensor> DivideNorm(BlockJob& job, const std::string& previous,
                                      const at::Tensor& scales) {
  const std::string name = previous + ".weight";
  const double offset = job.decoder().architecture().norm == NormKind::kRmsPlusOne ? 1 : 0;
  QD_ASSIGN_OR_RETURN(at::Tensor weight, job.Read(name));
  weight = weight + offset;
  QD_RETURN_IF_ERROR(job.Edit(name, weight / scales - offset));
  QD_ASSIGN_OR_RETURN(at::Tensor stored, job.Read(name));
  stored = stored + offset;
  const at::Tensor dead = (stored == 0).logical_or(weight == 0);
  const at::Tensor real = at::where(dead, scales, weight / stored);
  if (job.Has(previous + ".bias")) {
    QD_ASSIGN_OR_RETURN(const at::Tensor bias, job.Read(previous + ".bias"));
    QD_RETURN_IF_ERROR(job.Edit(previous + ".bias", bias / real));
  }
  return real;
}

absl::Status DivideLinear(BlockJob& job, const Fold& fold, const std::string& previous,
                          const at::Tensor& scales) {
  QD_ASSIGN_OR_RETURN(const at::Tensor weight, job.Read(previous + ".weight"));
  const at::Tensor rows = RowScales(fold, scales, weight.size(0));
  QD_RETURN_IF_ERROR(job.Edit(previous + ".weight", weight / rows.unsqueeze(1)));
  if (!job.Has(previous + ".bias")) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const at::Tensor bias, job.Read(previous + ".bias"));
  return job.Edit(previous + ".bias", bias / rows);
}

absl::Status ApplyOrThrow(BlockJob& job, const Fold& fold, at::Tensor scales) {
  const std::string prefix = BlockPrefix(job.decoder().architecture(), job.layer());
  const std::string previous = prefix + fold.previous;
  if (fold.previous_is_norm) {
    QD_ASSIGN_OR_RETURN(scales, DivideNorm(job, previous, scales));
  } else {
    QD_RETURN_IF_ERROR(DivideLinear(job, fold, previous, scales));
  }
  for (const std::vector<std::string>* modules : {&fold.linears, &fold.others}) {
    for (const std::string& module : *modules) {
      const std::string name = absl::StrCat(prefix, module, ".weight");
      QD_ASSIGN_OR_RETURN(const at::Tensor weight, job.Read(name));
      QD_RETURN_IF_ERROR(job.Edit(name, weight * scales));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Fold> UsableFolds(BlockJob& job) {
  std::set<std::string> quantized;
  for (const BlockJob::LinearInfo& linear : job.linears()) quantized.insert(linear.shape.module);
  std::vector<Fold> usable;
  for (Fold& fold : Folds(job.decoder().config(), job.decoder().architecture(), job.layer())) {
    const auto skipped =
        std::find_if_not(fold.linears.begin(), fold.linears.end(),
                         [&](const std::string& module) { return quantized.contains(module); });
    // A linear that is scaled but stays in 16 bits would be rounded anew.
    const bool previous_stays = !fold.previous_is_norm && !quantized.contains(fold.previous);
    if (skipped == fold.linears.end() && !previous_stays) {
      usable.push_back(std::move(fold));
      continue;
    }
    const std::string& reason = previous_stays ? fold.previous : *skipped;
    job.Fallback("fold",
                 absl::StrCat(BlockPrefix(job.decoder().architecture(), job.layer()), reason),
                 absl::StrCat(reason, " is not quantized, so no scale moves from ", fold.previous,
                              " into what reads it"));
  }
  return usable;
}

at::Tensor ShareScales(const Fold& fold, const at::Tensor& scales) {
  const at::Tensor rows = RowsOf(fold);
  const int64_t count = *std::max_element(fold.row_of_column.begin(), fold.row_of_column.end()) + 1;
  const at::Tensor sums = at::zeros({count}, at::kFloat).index_add_(0, rows, scales);
  const at::Tensor readers =
      at::zeros({count}, at::kFloat).index_add_(0, rows, at::ones_like(scales));
  return (sums / readers.clamp_min(1)).index_select(0, rows);
}

absl::Status ApplyFold(BlockJob& job, const Fold& fold, const at::Tensor& scales) {
  return TorchCall(absl::StrCat("folding scales into ", fold.previous),
                   [&] { return ApplyOrThrow(job, fold, scales.to(at::kCPU)); });
}

absl::Status ColumnCollector::OnInput(absl::string_view module, const at::Tensor& input) {
  return TorchCall(absl::StrCat("gathering the inputs of ", module), [&] {
    const int64_t tokens = input.numel() / input.size(-1);
    if (tokens == 0) return;
    if (!input.is_same(last_input_)) {
      const at::Tensor x = input.reshape({-1, input.size(-1)}).abs();
      last_ = {.largest = x.amax(0).to(at::kFloat).to(at::kCPU),
               .sum = x.sum(0, /*keepdim=*/false, at::kFloat).to(at::kCPU)};
      last_input_ = input;
    }
    last_.tokens = static_cast<double>(tokens);
    Count(std::string(module), last_);
  });
}

void ColumnCollector::Count(const std::string& module, const ColumnStatistics& more) {
  ColumnStatistics& seen = statistics_[module];
  seen.largest = seen.tokens > 0 ? at::maximum(seen.largest, more.largest) : more.largest;
  seen.sum = seen.tokens > 0 ? seen.sum + more.sum : more.sum;
  seen.tokens += more.tokens;
}

absl::Status ColumnCollector::Add(const ColumnCollector& other) {
  return TorchCall("adding up inputs", [&] {
    for (const auto& [module, more] : other.statistics_) Count(module, more);
  });
}

const ColumnStatistics* ColumnCollector::Of(const std::string& module) const {
  const auto found = statistics_.find(module);
  return found == statistics_.end() ? nullptr : &found->second;
}

absl::StatusOr<int64_t> SequencesOf(BlockJob& job, int64_t tokens) {
  QD_ASSIGN_OR_RETURN(const at::Tensor first, job.Inputs(0, 1));
  return std::max<int64_t>(1, tokens / first.size(1));
}

absl::Status RunBlock(
    BlockJob& job, const Block& block, int64_t sequences_max, LinearHook* hook,
    const std::function<absl::Status(const at::Tensor& input, const at::Tensor& output)>& consume) {
  const int64_t sequences = std::min(job.sequences(), sequences_max);
  for (int64_t begin = 0; begin < sequences; begin += job.batch_size()) {
    QD_RETURN_IF_ERROR(job.CheckCancelled());
    const int64_t count = std::min(job.batch_size(), sequences - begin);
    QD_ASSIGN_OR_RETURN(const at::Tensor input, job.Inputs(begin, count));
    QD_ASSIGN_OR_RETURN(const at::Tensor output,
                        job.decoder().Forward(block, input, {.cache = nullptr, .hook = hook}));
    if (consume) QD_RETURN_IF_ERROR(consume(input, output));
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
