// Texts of healthy and of broken models.
#include "workers/engine/evaluation/generation_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace quantd::engine {
namespace {

using ::testing::IsEmpty;
using ::testing::StartsWith;

GenerationFacts Healthy() {
  GenerationFacts facts;
  for (int64_t i = 0; i < 30; ++i) facts.ids.push_back(i * 7 % 31);
  facts.text = " 4\n\nQuestion: What is 3+4?\nAnswer: 7";
  facts.mean_log_prob = -0.8;
  facts.vocab_size = 4096;
  return facts;
}

TEST(DefectTest, HealthyTextsHaveNone) {
  EXPECT_THAT(FindDefect(Healthy()), IsEmpty());
  GenerationFacts brief = Healthy();
  brief.ids = {52};
  brief.text = " 4";
  EXPECT_THAT(FindDefect(brief), IsEmpty());
  GenerationFacts other = Healthy();
  other.text = "\xe4\xbd\xa0\xe5\xa5\xbd, \xc3\xa7a va \xf0\x9f\x99\x82";
  EXPECT_THAT(FindDefect(other), IsEmpty());
}

TEST(DefectTest, BrokenTextsAreNamed) {
  GenerationFacts facts = Healthy();
  facts.mean_log_prob = std::nan("");
  EXPECT_THAT(FindDefect(facts), StartsWith("not finite"));
  facts = Healthy();
  facts.text = " \n\t ";
  EXPECT_THAT(FindDefect(facts), StartsWith("empty"));
  facts.text = "";
  EXPECT_THAT(FindDefect(facts), StartsWith("empty"));
  facts.text = "ab\xef\xbf\xbd\xef\xbf\xbd";
  EXPECT_THAT(FindDefect(facts), StartsWith("gibberish"));
  facts.text = "a\x01\x02";
  EXPECT_THAT(FindDefect(facts), StartsWith("gibberish"));
  facts = Healthy();
  facts.mean_log_prob = -7;
  EXPECT_THAT(FindDefect(facts), StartsWith("guessing"));
  facts = Healthy();
  facts.ids.assign(40, 5);
  EXPECT_THAT(FindDefect(facts), StartsWith("loop"));
  for (size_t i = 0; i < facts.ids.size(); ++i) facts.ids[i] = static_cast<int64_t>(i % 8);
  EXPECT_THAT(FindDefect(facts), StartsWith("loop"));
}

TEST(RepetitionTest, CountsTriplesSeenBefore) {
  EXPECT_EQ(RepetitionRatio(std::vector<int64_t>{1, 2, 3, 4, 5}), 0);
  EXPECT_DOUBLE_EQ(RepetitionRatio(std::vector<int64_t>{1, 2, 3, 1, 2, 3}), 0.25);
  EXPECT_EQ(RepetitionRatio(std::vector<int64_t>{}), 0);
}

}  // namespace
}  // namespace quantd::engine
