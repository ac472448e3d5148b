// Methods on small layers: GPTQ beats rounding on its own measure, goes down its ladder step by
// step, and neither method lets a damaged number through.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/inverse.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/triu.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>

#include <limits>

#include "workers/engine/methods/gptq.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/methods/rtn.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kOutputs = 48;
constexpr int64_t kInputs = 256;

class MethodsTest : public testing::Test {
 protected:
  MethodsTest() {
    at::Generator generator = at::detail::createCPUGenerator(17);
    weight_ = at::randn({kOutputs, kInputs}, generator) * 0.05;
    // Correlated inputs of very different size, as activations are.
    const at::Tensor mixing = at::randn({kInputs, kInputs}, generator) * 0.3 + at::eye(kInputs);
    const at::Tensor sizes = at::randn({kInputs}, generator).exp();
    inputs_ = at::matmul(at::randn({512, kInputs}, generator), mixing) * sizes;
    statistics_ = {.hessian = at::matmul(inputs_.t(), inputs_) * (2.0 / 512), .tokens = 512};
  }

  absl::StatusOr<LinearResult> Quantize(const Method* method, const nlohmann::json& given) {
    options_ = *ResolveOptions(*method, given);
    return method->Quantize({.name = "layer",
                             .weight = weight_.clone(),
                             .statistics = &statistics_,
                             .options = &options_});
  }

  static QuantizedLinear Affine(const absl::StatusOr<LinearResult>& result) {
    EXPECT_TRUE(result.ok()) << result.status();
    return std::get<QuantizedLinear>(result->linear);
  }

  double OutputError(const QuantizedWeight& linear) {
    const at::Tensor difference = *Dequantize(linear, at::kFloat) - weight_;
    return at::matmul(inputs_, difference.t()).square().mean().item<double>();
  }

  at::Tensor weight_, inputs_;
  InputStatistics statistics_;
  nlohmann::json options_;
};

TEST_F(MethodsTest, GptqBeatsRoundingInEveryOrder) {
  for (const int bits : {2, 3, 4}) {
    const nlohmann::json common = {{"bits", bits}, {"group_size", 64}};
    const auto rtn = Quantize(Rtn(), common);
    ASSERT_TRUE(rtn.ok()) << rtn.status();
    for (const nlohmann::json& order :
         {R"({"act_group_aware": true})"_json, R"({"act_group_aware": false})"_json,
          R"({"desc_act": true})"_json, R"({"desc_act": true, "static_groups": true})"_json,
          R"({"scale_search": false})"_json, R"({"sym": false})"_json, R"({"block_size": 32})"_json,
          R"({"block_size": 256})"_json}) {
      nlohmann::json options = common;
      options.update(order);
      const auto gptq = Quantize(Gptq(), options);
      ASSERT_TRUE(gptq.ok()) << gptq.status();
      EXPECT_TRUE(Check(gptq->linear).ok()) << Check(gptq->linear);
      EXPECT_LT(OutputError(gptq->linear), OutputError(rtn->linear)) << options;
      EXPECT_TRUE(gptq->fallbacks.empty());
    }
  }
}

TEST_F(MethodsTest, RtnSearchesScales) {
  for (const int bits : {2, 3, 4, 8}) {
    const auto error = [&](bool search) {
      return Quantize(Rtn(), {{"bits", bits}, {"scale_search", search}})->loss;
    };
    EXPECT_LE(error(true), error(false)) << bits;
    if (bits < 8) {
      EXPECT_LT(error(true), error(false)) << bits;
    }
  }
}

// GPTAQ as its paper has it: columns in their order, a grid a row, and beside every column's
// rounding error the part of the drift that the columns behind it can take.
at::Tensor GptaqReference(at::Tensor weight, const at::Tensor& hessian, const at::Tensor& drift,
                          const QuantizedLinear& grid, double damping, double share) {
  const int64_t columns = weight.size(1);
  const at::Tensor damped = hessian + at::eye(columns) * hessian.diagonal().mean() * damping;
  const at::Tensor upper = std::get<0>(at::linalg_cholesky_ex(at::inverse(damped))).t();
  const at::Tensor part = at::matmul(at::triu(at::matmul(drift, upper.t()), 1), upper) * share;
  const at::Tensor scales = grid.scales.to(at::kFloat).select(1, 0);
  const double zero = 1 << (grid.bits - 1);
  at::Tensor rounded = at::zeros_like(weight);
  for (int64_t i = 0; i < columns; ++i) {
    const at::Tensor column = weight.select(1, i).clone();
    const at::Tensor codes = ((column / scales).round() + zero).clamp(0, 2 * zero - 1);
    rounded.select(1, i).copy_((codes - zero) * scales);
    const at::Tensor error = (column - rounded.select(1, i)) / upper[i][i];
    weight = weight - at::outer(error, upper[i]) + at::outer(column, part[i]);
  }
  return rounded;
}

TEST_F(MethodsTest, GptqMakesUpForDriftedInputs) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  const at::Tensor originals =
      inputs_ + at::matmul(inputs_, at::randn({kInputs, kInputs}, generator)) * 0.01;
  statistics_.drift = at::matmul((originals - inputs_).t(), inputs_) * (2.0 / 512);
  // What is left of the original outputs' error, per output.
  const auto error = [&](const at::Tensor& rounded) {
    return (at::matmul(originals, weight_.t()) - at::matmul(inputs_, rounded.t()))
        .square()
        .mean()
        .item<double>();
  };
  const nlohmann::json plain = {{"bits", 4},
                                {"group_size", -1},
                                {"scale_search", false},
                                {"act_group_aware", false},
                                {"damp_percent", 0.01}};
  const auto with = [&](double share) {
    nlohmann::json options = plain;
    options["input_correction"] = share;
    return error(*Dequantize(Quantize(Gptq(), options)->linear, at::kFloat));
  };
  const QuantizedLinear grid = Affine(Quantize(Rtn(), {{"bits", 4}, {"group_size", -1}}));
  const auto reference = [&](double share) {
    return error(
        GptaqReference(weight_.clone(), statistics_.hessian, statistics_.drift, grid, 0.01, share));
  };
  // Without a share the reference is GPTQ itself, code by code but for ties.
  EXPECT_NEAR(with(0), reference(0), 0.01 * with(0));
  EXPECT_LT(with(0.5), with(0));
  EXPECT_LT(with(1), with(0.5));
  EXPECT_LE(with(1), 1.01 * reference(1));
}

TEST_F(MethodsTest, GroupsStayContiguousUnlessDescAct) {
  const at::Tensor plain = at::floor_divide(at::arange(kInputs, at::kInt), 64).to(at::kInt);
  EXPECT_TRUE(Affine(Quantize(Gptq(), {{"group_size", 64}})).group_index.equal(plain));
  EXPECT_TRUE(
      Affine(Quantize(Gptq(), {{"group_size", 64}, {"desc_act", true}, {"static_groups", true}}))
          .group_index.equal(plain));
  EXPECT_FALSE(
      Affine(Quantize(Gptq(), {{"group_size", 64}, {"desc_act", true}})).group_index.equal(plain));
}

TEST_F(MethodsTest, DampingGrowsUntilItHelps) {
  // One direction of negative curvature, a tenth of the mean diagonal in size.
  const double mean = statistics_.hessian.diagonal().mean().item<double>();
  statistics_.hessian = at::eye(kInputs) * mean;
  statistics_.hessian[3][3] = -0.1 * mean;
  const auto result = Quantize(Gptq(), {{"damp_percent", 0.01}});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->fallbacks.size(), 1);
  EXPECT_EQ(result->fallbacks[0].kind, "damping");
  EXPECT_GT(result->damping, 0.1);
  EXPECT_LT(result->damping, 0.25);
}

TEST_F(MethodsTest, HopelessHessianIsRounded) {
  statistics_.hessian = at::eye(kInputs);
  statistics_.hessian[3][3] = -1000;
  const auto result = Quantize(Gptq(), {{"bits", 4}});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_FALSE(result->fallbacks.empty());
  EXPECT_EQ(result->fallbacks.back().kind, "rtn");
  EXPECT_TRUE(Affine(result).codes.equal(Affine(Quantize(Rtn(), {{"bits", 4}})).codes));
}

TEST_F(MethodsTest, DeadColumnsBecomeZero) {
  statistics_.hessian.narrow(0, 7, 1).zero_();
  statistics_.hessian.narrow(1, 7, 1).zero_();
  const auto result = Quantize(Gptq(), {{"bits", 4}});
  ASSERT_TRUE(result.ok()) << result.status();
  const at::Tensor decoded = *Dequantize(result->linear, at::kFloat);
  EXPECT_EQ(decoded.select(1, 7).abs().max().item<float>(), 0);
  EXPECT_GT(decoded.select(1, 8).abs().max().item<float>(), 0);
}

TEST_F(MethodsTest, RefusesNanAndInfinity) {
  weight_[5][9] = std::numeric_limits<float>::quiet_NaN();
  for (const Method* method : Methods()) {
    const auto result = Quantize(method, nlohmann::json::object());
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("row 5, column 9"));
  }
  weight_[5][9] = 0;
  statistics_.hessian[0][0] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(std::string(Quantize(Gptq(), nlohmann::json::object()).status().message()),
              HasSubstr("inputs of layer"));
}

TEST_F(MethodsTest, GroupSizeMustDivide) {
  const nlohmann::json options = *ResolveOptions(*Rtn(), {{"group_size", 128}});
  const absl::Status status = Rtn()->CheckLinear("model.layers.0.mlp.down_proj", 64, 96, options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* word : {"model.layers.0.mlp.down_proj.weight", "96", "128", "-1", "32"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }
}

}  // namespace
}  // namespace quantd::engine
