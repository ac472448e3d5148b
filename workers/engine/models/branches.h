// Sequences that begin alike, computed as one row: what they have in common (the trunk) once, and
// behind it what each goes on with (its branch), which sees the trunk and itself and stands where
// it would stand alone. A multiple-choice question costs its prompt once instead of once a choice.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <vector>

#include "absl/types/span.h"
#include "workers/engine/checkpoint/config.h"

namespace quantd::engine {

// Not where positions turn by frequencies that depend on how long the sequence is.
bool CanBranch(const ModelConfig& config);

// Of one row.
struct Fork {
  int64_t trunk = 0;              // Tokens.
  std::vector<int64_t> branches;  // Tokens of each, in order.
};

// Of a batch [B, T]; what is behind a row's last branch is padding. Not thread-safe. Methods throw
// what libtorch throws.
class Branches {
 public:
  // Each fork's tokens are at most `tokens`.
  Branches(absl::Span<const Fork> forks, int64_t tokens, at::Device device);

  // int64 [B, T]: from each sequence's own beginning; 0 where there is padding.
  const at::Tensor& positions() const { return positions_; }
  // The largest position + 1.
  int64_t length() const { return length_; }
  // Bool [B, 1, T, T]: true where a query sees a key, `window` as in AttentionOptions.
  const at::Tensor& Visible(int64_t window) const;

 private:
  at::Tensor positions_;
  at::Tensor branch_;  // int64 [B, T]: 0 in the trunk, from 1 on in the branches and the padding.
  int64_t length_ = 0;
  mutable std::map<int64_t, at::Tensor> visible_;  // By window.
};

}  // namespace quantd::engine
