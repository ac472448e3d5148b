// What linears that share an input share, and what is made when.
#include "workers/engine/models/linear_input.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"

namespace quantd::engine {
namespace {

constexpr InputQuantization kTokens = {.kind = InputKind::kInt8PerToken};
constexpr InputQuantization kTensor = {.kind = InputKind::kInt8PerTensor, .scale = 0.5f};

TEST(LinearInputTest, RoundsOnceForAllThatAskAlike) {
  ASSERT_TRUE(SetDeterministic(11).ok());
  const at::Tensor x = at::randn({2, 3, 16});
  const LinearInput input = x;
  EXPECT_TRUE(input.values().is_same(x));
  EXPECT_TRUE(input.Rounded({}).is_same(x));
  const at::Tensor tokens = input.Rounded(kTokens);
  EXPECT_TRUE(tokens.equal(RoundInput(x, kTokens)));
  const LinearInput copy = input;
  EXPECT_TRUE(copy.Rounded(kTokens).is_same(tokens));
  EXPECT_TRUE(input.Rounded(kTensor).equal(RoundInput(x, kTensor)));
  EXPECT_TRUE(input.Rounded(kTokens).equal(tokens));
}

TEST(LinearInputTest, WhatIsInFrontIsComputedWhenAskedForAndOnce) {
  int made = 0, made_int8 = 0;
  const auto values = [&] {
    ++made;
    return at::ones({2, 8});
  };
  const auto int8 = [&](const InputQuantization& wanted) {
    ++made_int8;
    const at::Tensor codes = at::full({2, 8}, wanted == kTensor ? 2 : 127, at::kChar);
    return Int8Input{codes, at::ones({2})};
  };
  const LinearInput input(at::ones({2, 8}, at::kHalf), values, int8);
  EXPECT_EQ(input.size(1), 8);
  EXPECT_EQ(input.scalar_type(), at::kHalf);
  EXPECT_EQ(input.Int8(kTokens).codes.max().item<int>(), 127);
  EXPECT_EQ(input.Int8(kTokens).codes.max().item<int>(), 127);
  EXPECT_EQ(made_int8, 1);
  EXPECT_EQ(input.Int8(kTensor).codes.max().item<int>(), 2);
  EXPECT_EQ(made_int8, 2);
  EXPECT_EQ(made, 0);
  const at::Tensor first = input.values();
  EXPECT_TRUE(input.values().is_same(first));
  EXPECT_EQ(made, 1);
  EXPECT_EQ(input.Int8(kTensor).codes.max().item<int>(), 2);
  EXPECT_EQ(made_int8, 2);
}

}  // namespace
}  // namespace quantd::engine
