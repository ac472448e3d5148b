// A group's part of the output changes by x d for its weights' change d, so that squares over all
// tokens are d (sum of x x^T) d^T: the second moments of each group's columns [G, g, g] are all
// that is needed of the tokens.
#include "workers/engine/methods/clip_search.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones_like.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/methods/common.h"
#include "workers/engine/methods/folding.h"
#include "workers/engine/methods/rounder.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/float_product.h"
#include "workers/engine/tensor/kernels.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

constexpr int kSteps = 10;
constexpr int kStepsOfWhole = 20;  // The smallest clip is 1 - 9/20.
// A group as wide as a layer would need a whole matrix of moments: its columns then count alone.
constexpr int64_t kGroupColumnsMax = 256;

// Sums over tokens of every group's x x^T (or only of the squares), by module.
class GroupMoments : public LinearHook {
 public:
  explicit GroupMoments(std::map<std::string, int64_t> group_columns)
      : group_columns_(std::move(group_columns)) {}

  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override {
    const auto found = group_columns_.find(std::string(module));
    if (found == group_columns_.end()) return absl::OkStatus();
    return TorchCall(absl::StrCat("gathering the inputs of ", module), [&] {
      const at::Tensor x = input.reshape({-1, input.size(-1)});
      if (x.size(0) == 0) return;
      at::Tensor& sum = moments_[found->first];
      if (found->second > kGroupColumnsMax) {
        const at::Tensor squares = x.to(at::kFloat).square().sum(0).unsqueeze(0);
        sum = sum.defined() ? sum + squares : squares;
        return;
      }
      const at::Tensor groups = x.reshape({x.size(0), -1, found->second}).transpose(0, 1);
      const at::Tensor product = FloatProduct(groups.transpose(1, 2), groups);
      sum = sum.defined() ? sum + product : product;
    });
  }

  // What another one saw on its part of the sequences.
  absl::Status Add(const GroupMoments& other) {
    return TorchCall("adding up inputs", [&] {
      for (const auto& [module, more] : other.moments_) {
        at::Tensor& sum = moments_[module];
        sum = sum.defined() ? sum + more.to(sum.device()) : more;
      }
    });
  }

  // [G, g, g], or [1, K]; undefined where no token came by.
  at::Tensor Take(const std::string& module) { return std::move(moments_[module]); }

 private:
  std::map<std::string, int64_t> group_columns_;
  std::map<std::string, at::Tensor> moments_;
};

// Error of every row and group [N, G, 1] for changes [N, G, g].
at::Tensor GroupErrors(const at::Tensor& change, const at::Tensor& moments) {
  if (moments.dim() == 2) return (change.square() * moments.unsqueeze(1)).sum(-1, true);
  const at::Tensor by_group = change.transpose(0, 1);  // [G, N, g]
  return (at::bmm(by_group, moments) * by_group).sum(-1, true).transpose(0, 1);
}

at::Tensor Clipped(const at::Tensor& weight, const nlohmann::json& options,
                   const at::Tensor& moments) {
  const Rounder rounder = RounderOf(options, weight.size(1));
  const std::vector<int64_t> groups = {weight.size(0), -1, rounder.group_columns};
  const at::Tensor whole = weight.reshape(groups);
  const at::Tensor largest = whole.abs().amax(-1, true);
  at::Tensor best, best_limit;
  for (int step = 0; step < kSteps; ++step) {
    const at::Tensor limit = largest * (1 - static_cast<double>(step) / kStepsOfWhole);
    const at::Tensor clipped = at::minimum(at::maximum(whole, -limit), limit);
    const absl::StatusOr<at::Tensor> decoded =
        rounder.round(clipped.reshape(weight.sizes()).contiguous());
    if (!decoded.ok()) return {};
    const at::Tensor error = GroupErrors(decoded->reshape(groups) - whole, moments);
    const at::Tensor better = best.defined() ? error < best : at::ones_like(error).to(at::kBool);
    best = best.defined() ? at::where(better, error, best) : error;
    best_limit = best_limit.defined() ? at::where(better, limit, best_limit) : limit;
  }
  return at::minimum(at::maximum(whole, -best_limit), best_limit).reshape(weight.sizes());
}

}  // namespace

absl::Status ClipBlock(BlockJob& job) {
  const Architecture& row = job.decoder().architecture();
  const std::set<absl::string_view> unclipped = {row.q, row.k, row.qkv};
  std::map<std::string, int64_t> wanted;
  for (const BlockJob::LinearInfo& linear : job.linears()) {
    if (unclipped.contains(linear.shape.module)) continue;
    wanted[linear.shape.module] = RounderOf(*linear.options, linear.shape.in).group_columns;
  }
  if (wanted.empty()) return absl::OkStatus();
  GroupMoments moments(wanted);
  QD_ASSIGN_OR_RETURN(const Block block, job.FloatBlock());
  QD_RETURN_IF_ERROR(CollectInputs(job, block, moments));
  for (const BlockJob::LinearInfo& linear : job.linears()) {
    if (!wanted.contains(linear.shape.module)) continue;
    QD_RETURN_IF_ERROR(job.CheckCancelled());
    const at::Tensor seen = moments.Take(linear.shape.module);
    if (!seen.defined()) {
      job.Fallback("clip", linear.name, "no calibration token reached it; it is not clipped");
      continue;
    }
    const std::string name = linear.name + ".weight";
    QD_ASSIGN_OR_RETURN(const at::Tensor weight, job.Read(name));
    const bool on_device = RounderOf(*linear.options, linear.shape.in).on_device;
    const at::Device device = on_device ? KernelDevice(seen.device()) : at::Device(at::kCPU);
    QD_ASSIGN_OR_RETURN(const at::Tensor clipped,
                        TorchCall(absl::StrCat("clipping ", linear.name), [&] {
                          return Clipped(weight.to(device), *linear.options, seen.to(device));
                        }));
    QD_RETURN_IF_ERROR(job.Edit(name, clipped));
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
