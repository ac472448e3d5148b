// The block at hand as a method has edited it: some tensors in full precision over the plan's
// source.
#pragma once

#include <map>
#include <string>

#include "workers/engine/models/weights.h"

namespace quantd::engine {

// Not thread-safe.
class WeightOverlay : public WrappedWeights {
 public:
  using WrappedWeights::WrappedWeights;

  absl::StatusOr<at::Tensor> Read(absl::string_view name) const override {
    const auto found = edits_.find(name);
    return found == edits_.end() ? base_.Read(name) : found->second;
  }

  void Set(const std::string& name, at::Tensor value) { edits_[name] = std::move(value); }
  void Clear() { edits_.clear(); }
  const std::map<std::string, at::Tensor, std::less<>>& edits() const { return edits_; }

 private:
  std::map<std::string, at::Tensor, std::less<>> edits_;
};

}  // namespace quantd::engine
