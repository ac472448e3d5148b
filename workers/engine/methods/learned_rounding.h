// Rounding that is learned by gradient descent on what it does to outputs, as state machines that
// know nothing of where gradients come from: ask for the weight as it would be now, measure,
// give the gradient back. Two kinds: signed gradient descent on rounding offsets and ranges
// (SignRound: Cheng, Zhang, Shen, Cai, He, Lv, Liu, 2023), and a relaxed choice between floor and
// ceiling that is annealed (AdaRound: Nagel, Amjad, van Baalen, Louizos, Blankevoort, 2020).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "workers/engine/methods/common.h"
#include "workers/engine/methods/quantized_linear.h"

namespace quantd::engine {

// A grid per row and group, all float32 [N, G, 1] on the weight's device. A scale is what float16
// can hold, may be negative, and is never zero.
struct RangeGrid {
  at::Tensor scale;
  at::Tensor zero;
};

// The grid whose ends are the group's own; a symmetric one gives its larger end the extra code.
RangeGrid WholeGrid(const at::Tensor& weight, const IntegerScheme& scheme);
// The grid that leaves the smallest squared error of nearest rounding, weighted by `column_weights`
// (float32 [K]; undefined: all alike). Symmetric grids may have negative scales: the one code more
// below zero then lies where a group's larger end is. Both throw what libtorch throws.
RangeGrid SearchGrid(const at::Tensor& weight, const IntegerScheme& scheme,
                     const at::Tensor& column_weights);

// Not thread-safe. Every function throws what libtorch throws.
class RoundingLearner {
 public:
  virtual ~RoundingLearner() = default;
  // float32 [N, K] as the parameters stand; a new tensor.
  virtual at::Tensor Weight() = 0;
  // `gradient` [N, K] of the loss by what Weight() gave last; `progress` in [0, 1).
  virtual void Step(const at::Tensor& gradient, double progress) = 0;
  // The parameters of the last Weight() are the best so far; Finish takes the last kept ones, or
  // the current ones when none were.
  virtual void Keep() = 0;
  // Whether further steps could change the codes.
  virtual bool settled() const = 0;
  virtual QuantizedLinear Finish() = 0;
};

struct SignRoundOptions {
  double rate = 0.005;        // Of rounding offsets, falling linearly to nothing.
  double range_rate = 0.005;  // Of ranges.
};
// `weight` float32 [N, K] on the device to learn on.
std::unique_ptr<RoundingLearner> MakeSignRounding(const at::Tensor& weight,
                                                  const IntegerScheme& scheme,
                                                  const RangeGrid& grid,
                                                  const SignRoundOptions& options);

struct AdaRoundOptions {
  double rate = 0.01;            // Of Adam.
  double regularization = 0.01;  // Weight of the term that drives every choice to 0 or 1.
  double warm_start = 0.2;       // Share of the steps before that term counts.
  double beta_start = 20;        // Its exponent falls from here ...
  double beta_end = 2;           // ... to here along a cosine.
};
std::unique_ptr<RoundingLearner> MakeAdaRounding(const at::Tensor& weight,
                                                 const IntegerScheme& scheme, const RangeGrid& grid,
                                                 const AdaRoundOptions& options);

}  // namespace quantd::engine
