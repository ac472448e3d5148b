// Sequences that share their beginning score what they score alone, in any company.
#include "workers/engine/evaluation/scorer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "workers/engine/evaluation/requests.h"

namespace quantd::engine {
namespace {

class ScorerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    context_.spec.runtime = {.device = "cpu", .threads = 1};
    auto model = LoadModel(context_, QUANTD_SOURCE_DIR "/models/tiny-6m");
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = std::move(*model);
  }
  std::vector<Sequence> Question(const std::string& prompt, const std::vector<std::string>& texts) {
    auto sequences = ScoredSequences(*model_, "tokenizer", prompt, texts);
    EXPECT_TRUE(sequences.ok()) << sequences.status();
    return *sequences;
  }
  std::vector<Score> Run(const std::vector<Sequence>& sequences, int batch_size) {
    auto scores = Scorer(context_, *model_, batch_size).Run(sequences);
    EXPECT_TRUE(scores.ok()) << scores.status();
    return *scores;
  }
  static std::vector<Sequence> Alone(std::vector<Sequence> sequences) {
    for (Sequence& sequence : sequences) sequence.shared = 0;
    return sequences;
  }
  static std::vector<Sequence> Joined(std::vector<Sequence> a, const std::vector<Sequence>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  RecordingSink events_;
  CancelToken cancel_;
  JobContext context_{{}, {}, "", "", "", events_, cancel_, nullptr};
  std::optional<LoadedModel> model_;
};

TEST_F(ScorerTest, SharedBeginningsChangeNoScore) {
  const std::vector<Sequence> first = Question("Question: Which of these is a fruit?\nAnswer:",
                                               {" stone", " an apple tree", " pear"});
  const std::vector<Sequence> second = Question("Two and two make", {" four", " twenty-two"});
  EXPECT_EQ(first[0].shared, 0);
  EXPECT_EQ(first[1].shared, static_cast<int64_t>(first[1].ids.size()) - first[1].scored);
  const std::vector<Sequence> all = Joined(first, second);
  const std::vector<Score> shared = Run(all, 0), alone = Run(Alone(all), 0);
  for (size_t i = 0; i < all.size(); ++i) {
    // Two ways to add the same float32 numbers.
    EXPECT_NEAR(shared[i].log_prob, alone[i].log_prob, 2e-5 * std::abs(alone[i].log_prob)) << i;
    EXPECT_EQ(shared[i].greedy, alone[i].greedy) << i;
  }
  // One row at a time, and in the other order: the same bits.
  const std::vector<Score> single = Run(all, 1), turned = Run(Joined(second, first), 0);
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(single[i].log_prob, shared[i].log_prob) << i;
    const size_t there = i < first.size() ? i + second.size() : i - first.size();
    EXPECT_EQ(turned[there].log_prob, shared[i].log_prob) << i;
  }
}

TEST_F(ScorerTest, WhatIsTooLongTogetherIsComputedAlone) {
  const int64_t length = std::min<int64_t>(model_->PositionsMax(), 4096) - 2;
  const auto row = [&](int64_t seed, int64_t shared) {
    Sequence sequence = {.ids = {5, 6, 7}, .scored = 4, .shared = shared};
    for (int64_t i = 0; i < length - 3; ++i) sequence.ids.push_back(10 + (i * seed) % 200);
    return sequence;
  };
  // 3 tokens in common, and more than 4096 behind them.
  std::vector<Sequence> sequences = {row(1, 0)};
  for (int64_t seed = 3; static_cast<int64_t>(sequences.size()) * length < 4300; seed += 2) {
    sequences.push_back(row(seed, 3));
  }
  const std::vector<Score> shared = Run(sequences, 1), alone = Run(Alone(sequences), 1);
  for (size_t i = 0; i < sequences.size(); ++i) EXPECT_EQ(shared[i].log_prob, alone[i].log_prob);
}

TEST_F(ScorerTest, APromptThatLosesItsBeginningSharesNothing) {
  std::string prompt;
  while (static_cast<int64_t>(prompt.size()) < 8 * model_->PositionsMax()) prompt += " one two";
  const std::vector<Sequence> sequences = Question(prompt, {" three", " four four four", " five"});
  for (const Sequence& sequence : sequences) EXPECT_EQ(sequence.shared, 0);
}

}  // namespace
}  // namespace quantd::engine
