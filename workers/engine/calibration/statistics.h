// Second moments and ranges of the inputs of a block's linear layers, gathered while the block
// runs.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/models/decoder.h"
#include "workers/engine/tensor/collective.h"

namespace quantd::engine {

// A hook for Decoder::Forward. Layers of one group (q, k, v; gate, up) share their input and one
// Hessian. Not thread-safe.
class StatisticsCollector : public LinearHook {
 public:
  // Gathers for the groups in `wanted`; when the last of them has been seen, the forward pass is
  // ended early by an error, which `enough()` tells from a real one.
  StatisticsCollector(std::vector<LinearShape> linears, std::set<int> wanted,
                      const CalibrationNeeds& needs);

  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override;
  // Whether the last forward pass was ended because nothing further was wanted.
  bool enough() const { return enough_; }
  // `originals`: what the original model has in these groups' places for the same tokens.
  void StartBatch(std::map<int, at::Tensor> originals = {}) {
    enough_ = false;
    originals_ = std::move(originals);
  }
  // Forgets what was gathered.
  void Reset();

  // Adds up what collectors of the same groups gathered on several devices, one each and in their
  // order, so that every one of them finishes with what calibration saw on all.
  static absl::Status Combine(absl::Span<StatisticsCollector> collectors,
                              absl::Span<const at::Device> devices, Collective& collective);

  // What `needs` says of every wanted group; ends the collecting. A group that saw nothing (an
  // expert to which no token was routed) has no tokens and no tensors.
  absl::StatusOr<std::map<int, InputStatistics>> Finish();

 private:
  std::vector<LinearShape> linears_;
  std::set<int> wanted_;
  CalibrationNeeds needs_;
  std::map<int, InputStatistics> statistics_;
  std::map<int, at::Tensor> originals_;
  bool enough_ = false;
};

// A hook that keeps the inputs of these groups as they are, of one batch; it ends the pass as the
// collector does.
class InputCapture : public LinearHook {
 public:
  InputCapture(std::vector<LinearShape> linears, std::set<int> wanted)
      : linears_(std::move(linears)), wanted_(std::move(wanted)) {}
  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override;
  bool enough() const { return enough_; }
  std::map<int, at::Tensor> Take() { return std::move(inputs_); }

 private:
  std::vector<LinearShape> linears_;
  std::set<int> wanted_;
  std::map<int, at::Tensor> inputs_;
  bool enough_ = false;
};

}  // namespace quantd::engine
