// Both learners work on weights as [N, G, g]. Gradients pass through round() as if it were not
// there and stop where a code is clamped.
#include "workers/engine/methods/learned_rounding.h"

#include <ATen/ops/full_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

// Ranges from this share of the group's own, in steps; the largest is what a grid whose shorter end
// holds the largest weight needs.
constexpr double kRangeSmallest = 0.3;
constexpr double kRangeStep = 0.02;
// A learned range stays within these factors of where it began.
constexpr double kFactorMin = 0.5;
constexpr double kFactorMax = 1.5;
// AdaRound's stretched sigmoid reaches 0 and 1 at finite parameters.
constexpr double kGamma = -0.1;
constexpr double kZeta = 1.1;

at::Tensor Grouped(const at::Tensor& weight, const IntegerScheme& scheme) {
  return weight.reshape({weight.size(0), -1, scheme.group_columns});
}

double CodeMax(const IntegerScheme& scheme) {
  return static_cast<double>((int64_t{1} << scheme.bits) - 1);
}

// As it will be stored: float16, with its sign, away from zero.
at::Tensor StoredScale(const at::Tensor& scale) {
  constexpr double kSmallest = 0x1p-14;  // The smallest normal float16.
  const at::Tensor safe = at::where(
      scale.abs() < kSmallest,
      at::where(scale < 0, at::full_like(scale, -kSmallest), at::full_like(scale, kSmallest)),
      scale);
  return safe.to(at::kHalf).to(at::kFloat);
}

at::Tensor Codes(const at::Tensor& scaled, const at::Tensor& zero, const IntegerScheme& scheme) {
  return (scaled.round() + zero).clamp(0, CodeMax(scheme));
}

// Format gptq v1 stores zero - 1: a zero of 0 is not to be had.
at::Tensor ZeroOf(const at::Tensor& low, const at::Tensor& scale, const IntegerScheme& scheme) {
  return (-low / scale).round().clamp(1, CodeMax(scheme));
}

// Keeps the better of `best` and a candidate, group by group.
class GridSearch {
 public:
  GridSearch(const at::Tensor& weight, const IntegerScheme& scheme, const at::Tensor& weights)
      : weight_(weight), scheme_(scheme), weights_(weights) {}

  void Try(const at::Tensor& scale, const at::Tensor& zero) {
    const at::Tensor decoded = (Codes(weight_ / scale, zero, scheme_) - zero) * scale;
    at::Tensor error = (decoded - weight_).square_();
    if (weights_.defined()) error.mul_(weights_);
    error = error.sum(-1, /*keepdim=*/true);
    if (!best_.defined()) {
      best_ = error;
      grid_ = {scale, zero};
      return;
    }
    const at::Tensor better = error < best_;
    best_ = at::where(better, error, best_);
    grid_.scale = at::where(better, scale, grid_.scale);
    grid_.zero = at::where(better, zero, grid_.zero);
  }
  RangeGrid Best() const { return grid_; }

 private:
  const at::Tensor& weight_;
  const IntegerScheme& scheme_;
  const at::Tensor& weights_;
  at::Tensor best_;
  RangeGrid grid_;
};

// What every learner has: the grouped weight and the way to codes.
class Learner : public RoundingLearner {
 protected:
  Learner(const at::Tensor& weight, const IntegerScheme& scheme, const RangeGrid& grid)
      : weight_(Grouped(weight, scheme)), scheme_(scheme), grid_(grid) {}

  QuantizedLinear Store(const at::Tensor& codes, const RangeGrid& grid) const {
    const int64_t outputs = weight_.size(0);
    QuantizedLinear linear =
        EmptyLinear(scheme_, outputs, weight_.size(1) * weight_.size(2), at::kCPU);
    const auto on_cpu = [&](const at::Tensor& tensor, at::ScalarType type) {
      return tensor.reshape({outputs, -1}).to(at::kCPU, type).contiguous();
    };
    linear.codes = on_cpu(codes, at::kByte);
    linear.scales = on_cpu(grid.scale, at::kHalf);
    linear.zeros = on_cpu(grid.zero, at::kByte);
    return linear;
  }

  at::Tensor weight_;  // [N, G, g]
  IntegerScheme scheme_;
  RangeGrid grid_;
};

class SignRounding : public Learner {
 public:
  SignRounding(const at::Tensor& weight, const IntegerScheme& scheme, const RangeGrid& grid,
               const SignRoundOptions& options)
      : Learner(weight, scheme, grid), options_(options) {
    now_.offset = at::zeros_like(weight_);
    now_.high = at::full_like(grid.scale, 1.0);
    if (!scheme_.symmetric) {
      now_.low = now_.high.clone();
      low_ = -grid.zero * grid.scale;
      high_ = (CodeMax(scheme_) - grid.zero) * grid.scale;
    }
  }

  at::Tensor Weight() override {
    used_ = GridOf(now_);
    codes_ = Codes(weight_ / used_.scale + now_.offset, used_.zero, scheme_);
    return ((codes_ - used_.zero) * used_.scale).view({weight_.size(0), -1});
  }

  void Step(const at::Tensor& gradient, double progress) override {
    const at::Tensor g = gradient.reshape(weight_.sizes());
    const at::Tensor raw = (weight_ / used_.scale + now_.offset).round() + used_.zero;
    const at::Tensor below = raw < 0;
    const at::Tensor above = raw > CodeMax(scheme_);
    const at::Tensor inside = below.logical_or(above).logical_not();
    const at::Tensor signs = (g * used_.scale).sign() * inside;
    // By the scale: what a code is worth, less what the weight's own share of it is.
    const at::Tensor by_scale = g * (codes_ - used_.zero - (weight_ / used_.scale) * inside);
    const auto descend = [](at::Tensor& parameter, const at::Tensor& slope, double rate) {
      parameter = parameter.sub(slope.sign(), rate).clamp(kFactorMin, kFactorMax);
    };
    const double left = 1 - progress;
    now_.offset = now_.offset.sub(signs, options_.rate * left).clamp(-0.5, 0.5);
    const double rate = options_.range_rate * left;
    if (scheme_.symmetric) {
      descend(now_.high, (by_scale * used_.scale).sum(-1, true), rate);
      return;
    }
    // scale = (high - low) / (2^bits - 1); a clamped code sits on its end of the range.
    const at::Tensor spread = (by_scale * inside).sum(-1, true) / CodeMax(scheme_);
    descend(now_.high, ((g * above).sum(-1, true) + spread) * high_, rate);
    descend(now_.low, ((g * below).sum(-1, true) - spread) * low_, rate);
  }

  void Keep() override {
    best_ = now_;
    kept_ = true;
  }
  bool settled() const override { return false; }

  QuantizedLinear Finish() override {
    if (kept_) now_ = best_;
    Weight();
    return Store(codes_, used_);
  }

 private:
  // Replaced, never written to: keeping them is keeping references.
  struct Parameters {
    at::Tensor offset;     // [N, G, g], in codes.
    at::Tensor low, high;  // [N, G, 1], factors of the range; symmetric: high alone.
  };

  RangeGrid GridOf(const Parameters& parameters) const {
    if (scheme_.symmetric) return {StoredScale(grid_.scale * parameters.high), grid_.zero};
    const at::Tensor low = low_ * parameters.low;
    const at::Tensor scale = StoredScale((high_ * parameters.high - low) / CodeMax(scheme_));
    return {scale, ZeroOf(low, scale, scheme_)};
  }

  SignRoundOptions options_;
  Parameters now_, best_;
  bool kept_ = false;
  at::Tensor low_, high_;
  RangeGrid used_;
  at::Tensor codes_;
};

class AdaRounding : public Learner {
 public:
  AdaRounding(const at::Tensor& weight, const IntegerScheme& scheme, const RangeGrid& grid,
              const AdaRoundOptions& options)
      : Learner(weight, scheme, grid), options_(options) {
    const at::Tensor scaled = weight_ / grid_.scale;
    floor_ = scaled.floor();
    // The choice begins where the weight itself is.
    const at::Tensor share = ((scaled - floor_ - kGamma) / (kZeta - kGamma)).clamp(1e-4, 1 - 1e-4);
    value_ = (share / (1 - share)).log_();
    first_ = at::zeros_like(value_);
    second_ = at::zeros_like(value_);
  }

  at::Tensor Weight() override { return Decode(Choice()); }

  void Step(const at::Tensor& gradient, double progress) override {
    ++steps_;
    const at::Tensor sigmoid = at::sigmoid(value_);
    const at::Tensor stretched = sigmoid * (kZeta - kGamma) + kGamma;
    const at::Tensor choice = stretched.clamp(0, 1);
    const at::Tensor raw = floor_ + choice + grid_.zero;
    const at::Tensor inside = (raw >= 0).logical_and(raw <= CodeMax(scheme_));
    at::Tensor slope = gradient.reshape(weight_.sizes()) * grid_.scale * inside;
    if (progress >= options_.warm_start) {
      const double rest = (progress - options_.warm_start) / (1 - options_.warm_start);
      const double beta = options_.beta_end + (options_.beta_start - options_.beta_end) *
                                                  (1 + std::cos(rest * M_PI)) / 2;
      const at::Tensor side = choice * 2 - 1;
      slope = slope - side.sign() * side.abs().pow(beta - 1) * (2 * beta * options_.regularization);
    }
    const at::Tensor live = (stretched > 0).logical_and(stretched < 1);
    slope = slope * sigmoid * (1 - sigmoid) * (kZeta - kGamma) * live;
    constexpr double kFirst = 0.9, kSecond = 0.999, kEpsilon = 1e-8;
    first_ = first_ * kFirst + slope * (1 - kFirst);
    second_ = second_ * kSecond + slope.square() * (1 - kSecond);
    const at::Tensor mean = first_ / (1 - std::pow(kFirst, steps_));
    const at::Tensor spread = (second_ / (1 - std::pow(kSecond, steps_))).sqrt_() + kEpsilon;
    value_ = value_ - mean / spread * options_.rate;
  }

  void Keep() override {}  // The objective changes while it anneals: only its end counts.

  bool settled() const override {
    const at::Tensor choice = Choice();
    return ((choice == 0).logical_or(choice == 1)).all().item<bool>();
  }

  QuantizedLinear Finish() override {
    const at::Tensor up = (Choice() >= 0.5).to(at::kFloat);
    return Store((floor_ + up + grid_.zero).clamp(0, CodeMax(scheme_)), grid_);
  }

 private:
  at::Tensor Choice() const {
    return (at::sigmoid(value_) * (kZeta - kGamma) + kGamma).clamp(0, 1);
  }
  at::Tensor Decode(const at::Tensor& choice) const {
    const at::Tensor codes = (floor_ + choice + grid_.zero).clamp(0, CodeMax(scheme_));
    return ((codes - grid_.zero) * grid_.scale).view({weight_.size(0), -1});
  }

  AdaRoundOptions options_;
  at::Tensor floor_, value_, first_, second_;
  int steps_ = 0;
};

}  // namespace

RangeGrid WholeGrid(const at::Tensor& weight, const IntegerScheme& scheme) {
  const at::Tensor grouped = Grouped(weight, scheme);
  const at::Tensor low = grouped.amin(-1, true).clamp_max(0);
  const at::Tensor high = grouped.amax(-1, true).clamp_min(0);
  if (!scheme.symmetric) {
    const at::Tensor scale = StoredScale((high - low) / CodeMax(scheme));
    return {scale, ZeroOf(low, scale, scheme)};
  }
  const double half = static_cast<double>(int64_t{1} << (scheme.bits - 1));
  const at::Tensor scale = at::where(high < -low, -low, -high) / half;
  return {StoredScale(scale), at::full_like(low, half)};
}

RangeGrid SearchGrid(const at::Tensor& weight, const IntegerScheme& scheme,
                     const at::Tensor& column_weights) {
  const at::Tensor grouped = Grouped(weight, scheme);
  at::Tensor weights;
  if (column_weights.defined()) {
    weights = column_weights.reshape({1, -1, scheme.group_columns});
  }
  GridSearch search(grouped, scheme, weights);
  const at::Tensor low = grouped.amin(-1, true).clamp_max(0);
  const at::Tensor high = grouped.amax(-1, true).clamp_min(0);
  const double half = static_cast<double>(int64_t{1} << (scheme.bits - 1));
  const double largest = scheme.symmetric ? std::min(2.0, half / (half - 1)) : 1.0;
  const at::Tensor middle = at::full_like(low, half);
  for (int step = 0;; ++step) {
    const double factor = largest - step * kRangeStep;
    if (factor < kRangeSmallest) break;
    if (scheme.symmetric) {
      const at::Tensor scale = StoredScale(at::maximum(-low, high) * (factor / half));
      search.Try(scale, middle);
      search.Try(-scale, middle);
    } else {
      const at::Tensor scale = StoredScale((high - low) * (factor / CodeMax(scheme)));
      search.Try(scale, ZeroOf(low * factor, scale, scheme));
    }
  }
  return search.Best();
}

std::unique_ptr<RoundingLearner> MakeSignRounding(const at::Tensor& weight,
                                                  const IntegerScheme& scheme,
                                                  const RangeGrid& grid,
                                                  const SignRoundOptions& options) {
  return std::make_unique<SignRounding>(weight, scheme, grid, options);
}

std::unique_ptr<RoundingLearner> MakeAdaRounding(const at::Tensor& weight,
                                                 const IntegerScheme& scheme, const RangeGrid& grid,
                                                 const AdaRoundOptions& options) {
  return std::make_unique<AdaRounding>(weight, scheme, grid, options);
}

}  // namespace quantd::engine
