// How experts' statistics are cut into runs, and when an expert is rounded instead.
#include "workers/engine/quantize/experts.h"

#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "workers/engine/tensor/device.h"

namespace quantd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// q, k with 64 inputs, o with 64, and two experts whose down projection has `inner` inputs.
std::vector<PlannedLinear> Linears(int64_t inner) {
  std::vector<PlannedLinear> linears;
  const auto add = [&](int64_t in, int group, int64_t expert) {
    linears.emplace_back().shape = {
        .module = "m", .out = 64, .in = in, .group = group, .expert = expert};
  };
  add(64, 0, -1);
  add(64, 0, -1);
  add(64, 1, -1);
  for (int expert = 0; expert < 2; ++expert) {
    add(64, 2 + 2 * expert, expert);
    add(inner, 3 + 2 * expert, expert);
  }
  return linears;
}

std::vector<const PlannedLinear*> Pointers(const std::vector<PlannedLinear>& linears) {
  std::vector<const PlannedLinear*> pointers;
  for (const PlannedLinear& linear : linears) pointers.push_back(&linear);
  return pointers;
}

TEST(StatisticsBatches, HoldWhatFitsInTheOrderOfComputation) {
  const std::vector<PlannedLinear> small = Linears(128);
  EXPECT_THAT(StatisticsBatches(Pointers(small), false),
              ElementsAre(std::set<int>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(HeldHessianBytes(Pointers(small), false), 4 * (4 * 64 * 64 + 2 * 128 * 128));
  EXPECT_THAT(
      StatisticsBatches(Pointers(small), true),
      ElementsAre(std::set<int>{0}, std::set<int>{1}, std::set<int>{2, 4}, std::set<int>{3, 5}));
  EXPECT_EQ(HeldHessianBytes(Pointers(small), true), 4 * 2 * 128 * 128);
  // A Hessian of 16384 columns is the limit by itself; one that is larger still gets its turn.
  const std::vector<PlannedLinear> large = Linears(16384);
  EXPECT_THAT(
      StatisticsBatches(Pointers(large), false),
      ElementsAre(std::set<int>{0, 1, 2}, std::set<int>{3}, std::set<int>{4}, std::set<int>{5}));
  EXPECT_EQ(HeldHessianBytes(Pointers(large), false), kHessianBytesMax);
  const std::vector<PlannedLinear> larger = Linears(20000);
  EXPECT_EQ(StatisticsBatches(Pointers(larger), false).size(), 4u);
  EXPECT_EQ(StatisticsBatches(Pointers(larger), true).size(), 5u);
  EXPECT_TRUE(StatisticsBatches({}, false).empty());
}

TEST(Experts, OnlyTheyCanSeeTooFewTokens) {
  InputStatistics statistics;
  const LinearShape expert = {.module = "m", .expert = 3}, plain = {.module = "m"};
  EXPECT_TRUE(SawTooFewTokens(expert, statistics, 100));
  EXPECT_FALSE(SawTooFewTokens(plain, statistics, 100));
  statistics.tokens = 49;
  EXPECT_TRUE(SawTooFewTokens(expert, statistics, 10000));
  statistics.tokens = 50;
  EXPECT_FALSE(SawTooFewTokens(expert, statistics, 10000));
}

TEST(Experts, AreRoundedWithTheJobsOwnBitsAndOnRecord) {
  ASSERT_TRUE(SetDeterministic(7).ok());
  const auto gptq = FindMethod("gptq");
  ASSERT_TRUE(gptq.ok());
  const auto options = ResolveOptions(**gptq, {{"bits", 3}, {"group_size", 32}, {"sym", false}});
  ASSERT_TRUE(options.ok()) << options.status();
  const InputStatistics statistics = {.hessian = {}, .absmax = {}, .tokens = 2};
  const auto result = RoundInstead({.name = "experts.5.w1",
                                    .weight = at::randn({8, 64}),
                                    .statistics = &statistics,
                                    .options = &*options},
                                   1000);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->fallbacks.size(), 1u);
  EXPECT_EQ(result->fallbacks[0].kind, "rtn");
  EXPECT_THAT(result->fallbacks[0].description, HasSubstr("only 2 of 1000"));
  const auto& linear = std::get<QuantizedLinear>(result->linear);
  EXPECT_EQ(linear.bits, 3);
  EXPECT_EQ(linear.group_size, 32);
  EXPECT_FALSE(linear.symmetric);
}

}  // namespace
}  // namespace quantd::engine
