// Text, random numbers, regular expressions and answers against what CPython 3.11 prints.
#include "workers/engine/evaluation/python_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "workers/engine/evaluation/answer_regex.h"
#include "workers/engine/evaluation/math_answer.h"
#include "workers/engine/evaluation/python_random.h"
#include "workers/engine/evaluation/wikitext_pages.h"

namespace quantd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PythonTextTest, NormalizesAnswersAsTheSquadScript) {
  const struct {
    const char* text;
    const char* normal;
  } kCases[] = {
      {"The U.S.A.", "usa"},
      {"a-the cat", "athe cat"},
      {"It’s “an” apple", "it’s “ ” apple"},
      {"$3,500.00 a", "350000"},
      {"naïve a_the", "naïve athe"},
      {"THE İstanbul", "i̇stanbul"},
      {"  the  an\ta ", ""},
      {"ΟΔΟΣ ΣΑΣ", "οδος σας"},
      {"Theatre of an era", "theatre of era"},
      {"a\xc2\xa0"
       "b",
       "b"},
  };
  for (const auto& test : kCases) EXPECT_EQ(NormalizeAnswer(test.text), test.normal) << test.text;
}

TEST(PythonTextTest, F1) {
  EXPECT_EQ(AnswerF1("the cat sat", "cat sat"), 1);
  EXPECT_DOUBLE_EQ(AnswerF1("cat sat down", "cat cat"), 2 * (0.5 * (1.0 / 3)) / (0.5 + 1.0 / 3));
  EXPECT_EQ(AnswerF1("", ""), 1);
  EXPECT_EQ(AnswerF1("the", "a"), 1);
  EXPECT_EQ(AnswerF1("cat", ""), 0);
}

TEST(PythonTextTest, Whitespace) {
  EXPECT_EQ(PythonStrip("\x1c\n a b \xe3\x80\x80"), "a b");
  EXPECT_EQ(PythonStripRight(" a \t"), " a");
  EXPECT_THAT(PythonSplit(" a\xe2\x80\xa8"
                          "bc "),
              ElementsAre("a", "bc"));
  EXPECT_EQ(PythonWordCount(" \n = A = \n b c \n "), 7);
  EXPECT_EQ(PythonWordCount(""), 1);
  EXPECT_EQ(CodePointCount("naïve"), 5);
}

TEST(PythonRandomTest, DrawsWhatCPythonDraws) {
  PythonRandom words(1234);
  for (const uint32_t expected : {4150886329U, 3342196574U, 1892932127U, 501869158U}) {
    EXPECT_EQ(words.Next32(), expected);
  }
  PythonRandom gsm8k(1234);
  EXPECT_THAT(gsm8k.Sample(7473, 5), ElementsAre(6374, 3610, 957, 61, 742));
  EXPECT_THAT(gsm8k.Sample(7473, 5), ElementsAre(7462, 6610, 4769, 286, 5501));
  EXPECT_THAT(gsm8k.Sample(7473, 5), ElementsAre(5677, 687, 806, 6279, 2905));
  PythonRandom arc(1234);
  const std::vector<size_t> many = arc.Sample(2251, 25);
  EXPECT_THAT(std::vector<size_t>(many.begin(), many.begin() + 8),
              ElementsAre(1805, 478, 30, 371, 143, 343, 403, 1452));
}

std::vector<std::string> Find(const char* pattern, const char* text) {
  const auto regex = AnswerRegex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  return regex.ok() ? *regex->FindAll(text) : std::vector<std::string>();
}

std::string Remove(const char* pattern, const char* text) {
  const auto regex = AnswerRegex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  return regex.ok() ? *regex->Remove(text) : "";
}

TEST(AnswerRegexTest, FindsAndRemovesAsPython) {
  EXPECT_THAT(Find("#### (\\-?[0-9\\.\\,]+)", "#### 5\n#### -1,018."), ElementsAre("5", "-1,018."));
  EXPECT_THAT(Find("(-?[$0-9.,]{2,})|(-?[0-9]+)", "1018 apples ... 7"),
              ElementsAre("1018", "...", "7"));
  EXPECT_THAT(Find("a*", "baa"), ElementsAre("", "aa", ""));
  EXPECT_EQ(Remove("(?s).*#### ", "a\n#### b\nc #### 18"), "18");
  EXPECT_EQ(Remove("\\.$", "18.\n"), "18\n");
  EXPECT_EQ(Remove("\\.$", "1.\n8."), "1.\n8");
  EXPECT_EQ(Remove(",", "1,0,18"), "1018");
  EXPECT_FALSE(AnswerRegex::Compile("(a").ok());
}

TEST(AnswerRegexTest, EndlessBacktrackingIsAnError) {
  const auto regex = AnswerRegex::Compile("(a+)+$");
  ASSERT_TRUE(regex.ok());
  EXPECT_EQ(regex->FindAll(std::string(64, 'a') + "b").status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(MathAnswerTest, ExtractsTheFinalAnswer) {
  EXPECT_EQ(ExtractMathAnswer("so \\boxed{\\frac{1}{2}} not 7"), "\\frac{1}{2}");
  EXPECT_EQ(ExtractMathAnswer("2 + 2 = 4\n#### 1,018\nmore"), "1,018");
  EXPECT_EQ(ExtractMathAnswer("Then the answer is: 12 cards."), "12 cards.");
  EXPECT_EQ(ExtractMathAnswer("it was in 1934."), "1934");
  EXPECT_EQ(ExtractMathAnswer("5 - 12 = -7"), "-7");
  EXPECT_EQ(ExtractMathAnswer("nothing"), std::nullopt);
  EXPECT_EQ(ExtractMathAnswer("\\boxed{3"), "3");
}

TEST(MathAnswerTest, OneSpelling) {
  EXPECT_EQ(NormalizeMathAnswer("$1,018.00$."), "1018");
  EXPECT_EQ(NormalizeMathAnswer("x = 5"), "5");
  EXPECT_EQ(NormalizeMathAnswer("\\dfrac{1}{2}"), "\\frac{1}{2}");
  EXPECT_EQ(NormalizeMathAnswer("12\\text{ cm}"), "12");
  EXPECT_EQ(NormalizeMathAnswer("(1,000)"), "(1,000)");
  EXPECT_EQ(NormalizeMathAnswer("\\left( 3, 4 \\right)"), "(3,4)");
  EXPECT_EQ(NormalizeMathAnswer("50\\%"), "50");
  EXPECT_EQ(NormalizeMathAnswer(".5"), "0.5");
}

TEST(MathAnswerTest, Values) {
  EXPECT_EQ(MathValue("1,018"), 1018);
  EXPECT_EQ(MathValue("-\\frac{1}{4}"), -0.25);
  EXPECT_EQ(MathValue("3/4"), 0.75);
  EXPECT_EQ(MathValue("\\sqrt{2}"), std::nullopt);
  EXPECT_EQ(MathValue("1/0"), std::nullopt);
  EXPECT_EQ(MathValue(""), std::nullopt);
}

TEST(WikitextTest, PagesAndPlainText) {
  const auto pages =
      SplitWikitextPages(" \n = A = \n \n b @-@ c \n = = S = = \n d \n = B = \n e \n");
  ASSERT_TRUE(pages.ok()) << pages.status();
  EXPECT_THAT(*pages, ElementsAre(" = A = \n \n b @-@ c \n = = S = = \n d ", " = B = \n e \n"));
  EXPECT_EQ(DetokenizeWikitext(" = = S = = \n b @-@ c , ( x ) \" q \" 's 5 ° C . \n"),
            " == S ==\nb-c, (x) \"q\"'s 5°C.\n");
  EXPECT_EQ(DetokenizeWikitext("( a ( b ) [ c"), "(a ( b) [ c");
  EXPECT_FALSE(SplitWikitextPages(" \n ").ok());
}

TEST(WikitextTest, WindowsScoreEveryTokenOnce) {
  std::vector<int64_t> ids(19);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(i);
  const std::vector<Sequence> windows = RollingWindows(ids, 99, 8);
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_THAT(windows[0].ids, ElementsAre(99, 0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_EQ(windows[0].scored, 8);
  EXPECT_THAT(windows[1].ids, ElementsAre(7, 8, 9, 10, 11, 12, 13, 14, 15));
  EXPECT_THAT(windows[2].ids, ElementsAre(10, 11, 12, 13, 14, 15, 16, 17, 18));
  EXPECT_EQ(windows[2].scored, 3);
}

}  // namespace
}  // namespace quantd::engine
