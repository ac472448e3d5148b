// Moving a scale from a layer's input columns into what makes them (models/folds.h): what AWQ and
// SmoothQuant do with the scales that they find.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "workers/engine/methods/block_job.h"
#include "workers/engine/models/folds.h"

namespace quantd::engine {

// The folds of the job's block whose layers are all to be quantized, so that scaling them can pay.
// What is left out, and why, is reported as a fallback "fold".
std::vector<Fold> UsableFolds(BlockJob& job);

// Columns that share a row of the previous layer (query heads of one value head) get the mean of
// their scales. `scales` float32 [K], positive.
at::Tensor ShareScales(const Fold& fold, const at::Tensor& scales);

// Divides the rows of fold.previous by `scales` (float32 [K], shared as above) and multiplies the
// columns that read them, in the job's weights. A norm is stored in the checkpoint's own type: what
// its rounded weight really divides by is what the columns are multiplied with, so that the block
// computes what it did.
absl::Status ApplyFold(BlockJob& job, const Fold& fold, const at::Tensor& scales);

// Per column of every linear's input, gathered over a block's calibration inputs.
struct ColumnStatistics {
  at::Tensor largest;  // max |x|, float32 [K]
  at::Tensor sum;      // of |x|
  double tokens = 0;
};

class ColumnCollector : public LinearHook {
 public:
  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override;
  // What another one saw on its part of the sequences.
  absl::Status Add(const ColumnCollector& other);
  // Null where no token reached the module.
  const ColumnStatistics* Of(const std::string& module) const;

 private:
  void Count(const std::string& module, const ColumnStatistics& more);
  std::map<std::string, ColumnStatistics> statistics_;
  // What was seen last: layers that share an input are given the same tensor.
  at::Tensor last_input_;
  ColumnStatistics last_;
};

// Calibration sequences that hold about as many tokens; at least one.
absl::StatusOr<int64_t> SequencesOf(BlockJob& job, int64_t tokens);

// What a hook gathers of all calibration inputs of `block`: every device a copy of `collector` over
// its part, then Add in the devices' order.
template <typename Collector>
absl::Status CollectInputs(BlockJob& job, const Block& block, Collector& collector) {
  std::vector<Collector> parts(job.devices(), collector);
  std::vector<LinearHook*> hooks;
  for (Collector& part : parts) hooks.push_back(&part);
  QD_RETURN_IF_ERROR(job.PassOver(block, hooks));
  for (const Collector& part : parts) QD_RETURN_IF_ERROR(collector.Add(part));
  return absl::OkStatus();
}

// Runs `block` over at most `sequences_max` calibration sequences with `hook` (may be null) and
// shows `consume` (may be empty) every batch of inputs and outputs.
absl::Status RunBlock(
    BlockJob& job, const Block& block, int64_t sequences_max, LinearHook* hook,
    const std::function<absl::Status(const at::Tensor& input, const at::Tensor& output)>& consume);

}  // namespace quantd::engine
