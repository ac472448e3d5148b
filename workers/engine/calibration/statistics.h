// Second moments and ranges of the inputs of a block's linear layers, gathered while the block
// runs.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/models/decoder.h"

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
  void StartBatch() { enough_ = false; }
  // Forgets what was gathered.
  void Reset();

  // What `needs` says of every wanted group; ends the collecting. A group that saw nothing (an
  // expert to which no token was routed) has no tokens and no tensors.
  absl::StatusOr<std::map<int, InputStatistics>> Finish();

 private:
  std::vector<LinearShape> linears_;
  std::set<int> wanted_;
  CalibrationNeeds needs_;
  std::map<int, InputStatistics> statistics_;
  bool enough_ = false;
};

}  // namespace quantd::engine
