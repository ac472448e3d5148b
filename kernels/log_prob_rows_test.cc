// The device's log probabilities against the formula within the bound of the header.
#include "kernels/log_prob_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Scores {
  std::vector<float> log_probs;
  std::vector<uint8_t> greedy;
};

struct Case {
  int64_t columns = 0;
  bool bfloat16 = false;
  std::vector<uint16_t> logits;
  std::vector<int64_t> targets;

  LogProbRows Args() const {
    return {.rows = static_cast<int64_t>(targets.size()),
            .columns = columns,
            .bfloat16 = bfloat16,
            .logits = logits.data(),
            .targets = targets.data()};
  }
  Scores Reference() const {
    Scores scores = {std::vector<float>(targets.size()), std::vector<uint8_t>(targets.size())};
    LogProbRows args = Args();
    args.log_probs = scores.log_probs.data();
    args.greedy = scores.greedy.data();
    LogProbRowsReference(args);
    return scores;
  }
  Scores Cuda() const {
    const OnDevice<uint16_t> values(logits);
    const OnDevice<int64_t> wanted(targets);
    const OnDevice<float> log_probs(targets.size());
    const OnDevice<uint8_t> greedy(targets.size());
    LogProbRows args = Args();
    args.logits = values.data();
    args.targets = wanted.data();
    args.log_probs = log_probs.data();
    args.greedy = greedy.data();
    FindBackend("cuda")->log_prob_rows(args);
    ExpectNoDeviceError();
    return {log_probs.Read(), greedy.Read()};
  }
};

Case Make(const std::vector<std::vector<float>>& rows, std::vector<int64_t> targets,
          bool bfloat16) {
  Case c = {static_cast<int64_t>(rows[0].size()), bfloat16, {}, std::move(targets)};
  for (const auto& row : rows) {
    for (const float value : row) c.logits.push_back(ToSixteen(value, bfloat16));
  }
  return c;
}

// Rows whose log probability or greedy answer does not follow from the formula's middle.
Case Edges(bool bfloat16) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  return Make({{0, 0, 0, 0},
               {0, 0, 0, 0},
               {-kInfinity, 1, -kInfinity, -kInfinity},
               {-kInfinity, 1, -kInfinity, -kInfinity},
               {-kInfinity, -kInfinity, -kInfinity, -kInfinity},
               {1, nan, 2, 0},
               {1, kInfinity, 2, 0},
               {1, 2, 3, 3}},
              {0, 1, 1, 0, 0, 2, 1, 2}, bfloat16);
}

void ExpectEdges(const Scores& scores) {
  EXPECT_NEAR(scores.log_probs[0], -std::log(4.0), 1e-6);
  EXPECT_EQ(scores.log_probs[2], 0);
  EXPECT_EQ(scores.log_probs[3], -kInfinity);
  for (const int row : {4, 5, 6}) EXPECT_TRUE(std::isnan(scores.log_probs[row])) << row;
  // Equal ones: the first is the best.
  EXPECT_EQ(scores.greedy, (std::vector<uint8_t>{1, 0, 1, 0, 0, 0, 0, 1}));
}

TEST(LogProbRowsTest, ReferenceByHand) {
  ExpectEdges(Edges(false).Reference());
  ExpectEdges(Edges(true).Reference());
}

TEST(LogProbRowsTest, CudaEdges) {
  QD_SKIP_WITHOUT_GPU();
  ExpectEdges(Edges(false).Cuda());
  ExpectEdges(Edges(true).Cuda());
}

// Widths around those of eights and of a block; rows of an odd width begin at any place.
TEST(LogProbRowsTest, CudaStaysWithinTheBound) {
  QD_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 11;
  RecordProperty("seed", 29);
  std::mt19937 random(29);
  std::normal_distribution<float> normal;
  for (const int64_t columns : {1, 7, 8, 9, 513, 4096, 4099, 50257, 128256}) {
    for (const bool bfloat16 : {false, true}) {
      Case c = {columns, bfloat16, std::vector<uint16_t>(kRows * columns),
                std::vector<int64_t>(kRows)};
      for (uint16_t& logit : c.logits) logit = ToSixteen(normal(random) * 4, bfloat16);
      for (int64_t& target : c.targets) target = static_cast<int64_t>(random() % columns);
      // One that is far above the others, one far below.
      c.logits[c.targets[0]] = ToSixteen(60, bfloat16);
      c.logits[columns + c.targets[1]] = ToSixteen(-60, bfloat16);
      const Scores expected = c.Reference(), got = c.Cuda();
      EXPECT_EQ(got.greedy, expected.greedy) << columns;
      EXPECT_EQ(got.greedy[0], 1);
      for (int64_t row = 0; row < kRows; ++row) {
        const double want = expected.log_probs[row];
        const double bound =
            (static_cast<double>(columns) / 256 + 128 + 4 * std::abs(want)) * 0x1p-24;
        EXPECT_NEAR(got.log_probs[row], want, bound + std::abs(want) * 0x1p-24)
            << columns << " columns, row " << row;
      }
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
