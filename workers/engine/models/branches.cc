// See branches.h.
#include "workers/engine/models/branches.h"

#include <algorithm>

#include "workers/engine/models/rope.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {

bool CanBranch(const ModelConfig& config) {
  return !DependsOnLength(config.rope) &&
         !(config.local_rope.has_value() && DependsOnLength(*config.local_rope));
}

Branches::Branches(absl::Span<const Fork> forks, int64_t tokens, at::Device device) {
  const auto rows = static_cast<int64_t>(forks.size());
  positions_ = at::zeros({rows, tokens}, at::kLong);
  branch_ = at::empty({rows, tokens}, at::kLong);
  for (int64_t row = 0; row < rows; ++row) {
    const Fork& fork = forks[static_cast<size_t>(row)];
    int64_t* position = positions_.mutable_data_ptr<int64_t>() + row * tokens;
    int64_t* branch = branch_.mutable_data_ptr<int64_t>() + row * tokens;
    int64_t* const end = branch + tokens;
    int64_t number = 0;
    const auto add = [&](int64_t first, int64_t count) {
      for (int64_t i = first; i < first + count; ++i) *position++ = i;
      branch = std::fill_n(branch, count, number++);
      length_ = std::max(length_, first + count);
    };
    add(0, fork.trunk);
    for (const int64_t count : fork.branches) add(fork.trunk, count);
    std::fill(branch, end, number);
  }
  positions_ = positions_.to(device);
  branch_ = branch_.to(device);
}

const at::Tensor& Branches::Visible(int64_t window) const {
  at::Tensor& visible = visible_[window];
  if (visible.defined()) return visible;
  const at::Tensor place = at::arange(branch_.size(1), branch_.options());
  const at::Tensor key = branch_.unsqueeze(1), query = branch_.unsqueeze(2);
  visible = (key == 0).logical_or(key == query).logical_and(place <= place.unsqueeze(1));
  if (window > 0) {
    visible = visible.logical_and(positions_.unsqueeze(1) > positions_.unsqueeze(2) - window);
  }
  visible = visible.unsqueeze(1);
  return visible;
}

}  // namespace quantd::engine
