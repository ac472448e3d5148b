// Learners on a layer whose loss is known in closed form: both go below nearest rounding, stay on
// their grid, and their gradients agree with finite differences where rounding is smooth.
#include "workers/engine/methods/learned_rounding.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>

#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

constexpr int64_t kN = 24, kK = 128;

class LearnedRoundingTest : public testing::Test {
 protected:
  LearnedRoundingTest() {
    at::Generator generator = at::detail::createCPUGenerator(23);
    weight_ = at::randn({kN, kK}, generator) * 0.05;
    const at::Tensor inputs = at::matmul(at::randn({512, kK}, generator),
                                         at::randn({kK, kK}, generator) * 0.1 + at::eye(kK));
    moments_ = at::matmul(inputs.t(), inputs) / 512;
  }

  double Loss(const at::Tensor& weight) const {
    const at::Tensor error = weight - weight_;
    return (at::matmul(error, moments_) * error).sum(at::kDouble).item<double>();
  }

  double Learn(RoundingLearner& learner, int steps) const {
    double best = INFINITY;
    for (int step = 0; step < steps; ++step) {
      const at::Tensor weight = learner.Weight();
      const double loss = Loss(weight);
      if (loss < best) {
        best = loss;
        learner.Keep();
      }
      learner.Step(at::matmul(weight - weight_, moments_) * 1e3, static_cast<double>(step) / steps);
    }
    const QuantizedLinear linear = learner.Finish();
    EXPECT_TRUE(linear.Check().ok()) << linear.Check();
    EXPECT_GE(linear.zeros.min().item<int64_t>(), 1);
    return Loss(*linear.Dequantize(at::kFloat));
  }

  at::Tensor weight_, moments_;
};

TEST_F(LearnedRoundingTest, BothBeatNearestRounding) {
  for (const int bits : {2, 3, 4}) {
    for (const bool symmetric : {true, false}) {
      const IntegerScheme scheme = {bits, 32, 32, symmetric};
      const RangeGrid grid = SearchGrid(weight_, scheme, moments_.diagonal().contiguous());
      // Without a step it is nearest rounding on that grid.
      const double nearest = Learn(*MakeSignRounding(weight_, scheme, grid, {}), 0);
      const double sign = Learn(*MakeSignRounding(weight_, scheme, grid, {}), 200);
      const double ada = Learn(*MakeAdaRounding(weight_, scheme, grid, {}), 600);
      EXPECT_LT(sign, nearest) << bits << symmetric;
      EXPECT_LT(ada, nearest) << bits << symmetric;
    }
  }
}

TEST_F(LearnedRoundingTest, KeepsTheBest) {
  const IntegerScheme scheme = {4, 32, 32, true};
  const RangeGrid grid = SearchGrid(weight_, scheme, {});
  const auto learner = MakeSignRounding(weight_, scheme, grid, {});
  const at::Tensor first = learner->Weight().clone();
  learner->Keep();
  for (int step = 0; step < 5; ++step) {
    learner->Step(at::ones_like(first), 0);
    learner->Weight();
  }
  EXPECT_FALSE(learner->Weight().equal(first));
  EXPECT_TRUE(learner->Finish().Dequantize(at::kFloat)->equal(first));
}

TEST_F(LearnedRoundingTest, SymmetricGridsUseTheExtraCode) {
  // One large positive weight: its group wants a negative scale.
  at::Tensor weight = at::full({1, 32}, -0.3, at::kFloat);
  weight[0][3] = 1.0;
  const IntegerScheme scheme = {2, 32, 32, true};
  EXPECT_EQ(WholeGrid(weight, scheme).scale.item<float>(), -0.5);
  const RangeGrid grid = SearchGrid(weight, scheme, {});
  EXPECT_LT(grid.scale.item<float>(), 0);
  const auto squared = [&](double scale) {
    return (((weight / scale).round().clamp(-2, 1) * scale) - weight).square().sum().item<double>();
  };
  EXPECT_LE(squared(grid.scale.item<double>()), squared(1.0));
  EXPECT_LE(squared(grid.scale.item<double>()), squared(0.5));
}

TEST_F(LearnedRoundingTest, SurvivesGroupsOfZeros) {
  weight_.narrow(1, 0, 32).zero_();
  for (const bool symmetric : {true, false}) {
    const IntegerScheme scheme = {3, 32, 32, symmetric};
    const RangeGrid grid = SearchGrid(weight_, scheme, {});
    const auto learner = MakeSignRounding(weight_, scheme, grid, {});
    EXPECT_EQ(learner->Weight().narrow(1, 0, 32).abs().max().item<float>(), 0);
    EXPECT_TRUE(learner->Finish().Check().ok());
  }
}

TEST_F(LearnedRoundingTest, AdaRoundBeginsAtTheWeightAndSettles) {
  const IntegerScheme scheme = {4, 32, 32, true};
  const RangeGrid grid = SearchGrid(weight_, scheme, {});
  const auto learner = MakeAdaRounding(weight_, scheme, grid, {.regularization = 10});
  const at::Tensor inside = (learner->Weight() - weight_).abs() < grid.scale.abs().max() * 1e-2;
  EXPECT_GT(inside.to(at::kFloat).mean().item<float>(), 0.9);  // The rest is clamped.
  EXPECT_FALSE(learner->settled());
  for (int step = 0; step < 800 && !learner->settled(); ++step) {
    learner->Weight();
    learner->Step(at::zeros_like(weight_), 0.2 + 0.8 * step / 800.0);
  }
  EXPECT_TRUE(learner->settled());
}

}  // namespace
}  // namespace quantd::engine
