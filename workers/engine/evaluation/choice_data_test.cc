// Both schemas, and the line numbers of what is neither.
#include "workers/engine/evaluation/choice_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kOfficial[] =
    R"({"id":"a","question":{"stem":"Q?","choices":[{"text":"x","label":"A"},)"
    R"({"text":"y","label":"B"}]},"answerKey":"B"})";
constexpr char kFlat[] =
    R"({"id":"b","question":"Q2?","choices":{"text":["x","y","z"],"label":["1","2","3"]},)"
    R"("answerKey":"1"})";

TEST(ChoiceDataTest, ReadsBothSchemas) {
  const auto questions =
      ParseChoiceQuestions(std::string(kOfficial) + "\r\n\n" + kFlat, "f.jsonl", 0);
  ASSERT_TRUE(questions.ok()) << questions.status();
  ASSERT_EQ(questions->size(), 2u);
  EXPECT_EQ((*questions)[0].question, "Q?");
  EXPECT_EQ((*questions)[0].answer, 1u);
  EXPECT_EQ((*questions)[1].id, "b");
  EXPECT_THAT((*questions)[1].choices, ElementsAre("x", "y", "z"));
  EXPECT_EQ((*questions)[1].answer, 0u);
  EXPECT_EQ(ParseChoiceQuestions(std::string(kOfficial) + "\n" + kFlat, "f", 1)->size(), 1u);
}

TEST(ChoiceDataTest, RefusesWithTheLine) {
  const struct {
    const char* line;
    const char* words;
  } kCases[] = {
      {"{", "f.jsonl, line 2: not valid JSON"},
      {"[]", "line 2: not a JSON object"},
      {R"({"question":{"stem":"","choices":[]}})", "\"stem\" must be a string"},
      {R"({"question":{"stem":"q"},"answerKey":"A"})", "\"choices\" must be"},
      {R"({"question":"q","choices":{"text":["x"],"label":["A"]},"answerKey":"A"})", "1 choices"},
      {R"({"question":"q","choices":{"text":["x","y"],"label":["A"]},"answerKey":"A"})",
       "\"choices\" must be"},
      {R"({"question":"q","choices":{"text":["x",3],"label":["A","B"]},"answerKey":"A"})",
       "\"text\" must be"},
      {R"({"question":"q","choices":{"text":["x","y"],"label":["A","B"]},"answerKey":"C"})",
       "\"C\" is none of the labels A, B"},
      {R"({"question":"q","choices":{"text":["x","y"],"label":["A","B"]}})", "\"answerKey\""},
  };
  for (const auto& test : kCases) {
    const auto questions =
        ParseChoiceQuestions(std::string(kOfficial) + "\n" + test.line, "f.jsonl", 0);
    ASSERT_FALSE(questions.ok()) << test.line;
    EXPECT_THAT(std::string(questions.status().message()), HasSubstr(test.words));
  }
  EXPECT_FALSE(ParseChoiceQuestions("\n\n", "f", 0).ok());
}

}  // namespace
}  // namespace quantd::engine
