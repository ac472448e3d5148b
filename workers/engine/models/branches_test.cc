// Branches give every sequence what it gives alone, in every architecture.
#include "workers/engine/models/branches.h"

#include <ATen/ops/cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "workers/engine/models/model.h"
#include "workers/engine/models/test_util.h"

namespace quantd::engine {
namespace {

at::Tensor Tokens(int64_t first, int64_t count) {
  return at::arange(first, first + count, at::kLong).mul(7).remainder(50);
}

TEST(Branches, SayWhereTokensStandAndWhatTheySee) {
  const Branches branches({{.trunk = 2, .branches = {1, 2}}, {.trunk = 3, .branches = {1}}}, 6,
                          at::kCPU);
  EXPECT_EQ(branches.length(), 4);
  EXPECT_TRUE(branches.positions().equal(
      at::tensor({0, 1, 2, 2, 3, 0, 0, 1, 2, 3, 0, 0}, at::kLong).view({2, 6})));
  const auto row = [](const at::Tensor& visible, int64_t b, int64_t query) {
    std::vector<int> seen;
    for (int64_t key = 0; key < 6; ++key) {
      if (visible[b][0][query][key].item<bool>()) seen.push_back(static_cast<int>(key));
    }
    return seen;
  };
  const at::Tensor& all = branches.Visible(0);
  EXPECT_THAT(row(all, 0, 1), testing::ElementsAre(0, 1));
  EXPECT_THAT(row(all, 0, 2), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(row(all, 0, 4), testing::ElementsAre(0, 1, 3, 4));
  EXPECT_THAT(row(all, 1, 3), testing::ElementsAre(0, 1, 2, 3));
  // The second branch's last token stands at 3 and sees two positions.
  EXPECT_THAT(row(branches.Visible(2), 0, 4), testing::ElementsAre(3, 4));
  EXPECT_THAT(row(branches.Visible(2), 0, 3), testing::ElementsAre(1, 3));
}

TEST(Branches, GiveWhatEverySequenceGivesAlone) {
  const std::vector<Fork> forks = {{.trunk = 9, .branches = {3, 1, 0, 7}},
                                   {.trunk = 2, .branches = {11, 5}}};
  constexpr int64_t kTokens = 24;
  for (const Architecture& row : Architectures()) {
    SCOPED_TRACE(std::string(row.name));
    const ModelConfig config = SmallConfig(row.name);
    ASSERT_TRUE(CanBranch(config));
    const RandomWeights source(config, row);
    const auto model = Model::Load(config, source, {});
    ASSERT_TRUE(model.ok()) << model.status();
    at::Tensor ids = at::zeros({2, kTokens}, at::kLong);
    struct Alone {
      int64_t b, trunk, first, count;  // Where its branch lies.
    };
    std::vector<Alone> sequences;
    for (int64_t b = 0; b < 2; ++b) {
      const Fork& fork = forks[static_cast<size_t>(b)];
      ids[b].narrow(0, 0, fork.trunk).copy_(Tokens(b, fork.trunk));
      int64_t first = fork.trunk;
      for (const int64_t count : fork.branches) {
        ids[b].narrow(0, first, count).copy_(Tokens(3 * first, count));
        sequences.push_back({b, fork.trunk, first, count});
        first += count;
      }
    }
    const Branches branches(forks, kTokens, at::kCPU);
    const auto together = model->Forward(ids, nullptr, &branches);
    ASSERT_TRUE(together.ok()) << together.status();
    for (const Alone& alone : sequences) {
      const auto part = [&](const at::Tensor& of) {
        return at::cat({of.narrow(0, 0, alone.trunk), of.narrow(0, alone.first, alone.count)});
      };
      const auto expected = model->Forward(part(ids[alone.b]).unsqueeze(0));
      ASSERT_TRUE(expected.ok()) << expected.status();
      EXPECT_TRUE(Close(part((*together)[alone.b]), (*expected)[0])) << alone.first;
    }
  }
}

TEST(Branches, NotWhereFrequenciesDependOnTheLength) {
  ModelConfig config = SmallConfig();
  config.rope.scaling = RopeScaling::kDynamic;
  EXPECT_FALSE(CanBranch(config));
}

}  // namespace
}  // namespace quantd::engine
