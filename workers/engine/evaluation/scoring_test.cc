// Rows, documents and scores on small cases worked out by hand from the published definitions.
#include "workers/engine/evaluation/scoring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "workers/engine/evaluation/documents.h"
#include "workers/engine/evaluation/requests.h"
#include "workers/engine/evaluation/row_task.h"

namespace quantd::engine {
namespace {

using ::nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const TaskRow& Row(const std::string& name) { return *(*FindTask(name))->row; }

json Score(const TaskRow& row, const json& document, const Answer& answer) {
  json sample = {{"id", "x"}};
  const absl::Status status = row.scoring->score(row, document, answer, &sample);
  EXPECT_TRUE(status.ok()) << status;
  return sample;
}

TEST(ScoringTest, ChoicesByLikelihoodAndByLength) {
  const json document = {{"id", "1"},
                         {"question", "q"},
                         {"choices", {{"text", {"ab", "abcd", "x"}}, {"label", {"A", "B", "C"}}}},
                         {"answerKey", "B"}};
  const TaskRow& row = Row("arc_challenge");
  const json sample = Score(row, document, {"", {-4, -4.4, -9}});
  EXPECT_EQ(sample["scores"]["acc"], 0);
  EXPECT_EQ(sample["scores"]["acc_norm"], 1);
  EXPECT_EQ(sample["chosen"], 0);
  // The first of equals; nothing where a number is missing.
  EXPECT_EQ(Score(row, document, {"", {-4, -4, -4}})["chosen"], 0);
  EXPECT_TRUE(Score(row, document, {"", {-4, std::nan(""), -4}})["chosen"].is_null());
  // A number is a place also where it is one of the texts.
  const json numbers = {{"id", "1"},
                        {"question", "q"},
                        {"choices", {{"text", {"2", "4", "8"}}, {"label", {"A", "B", "C"}}}},
                        {"answerKey", "C"}};
  EXPECT_EQ(Score(row, numbers, {"", {-4, -5, -6}})["gold"], 2);
  // Label 0: F1 2/3, label 1: 2/3, label 2 was predicted and never right: 0.
  std::vector<json> samples;
  const int kPairs[][2] = {{0, 0}, {0, 2}, {1, 1}, {1, 0}};
  for (const auto& [gold, chosen] : kPairs) {
    samples.push_back({{"gold", gold}, {"chosen", chosen}, {"scores", {{"acc", gold == chosen}}}});
  }
  MetricTable table = json::object();
  AddMacroF1(samples, "chosen", &table);
  EXPECT_NEAR(table["f1"]["value"].get<double>(), (0.5 + 2.0 / 3 + 0) / 3, 1e-12);
}

TEST(ScoringTest, GeneratedLabels) {
  const json document = {{"id", "1"},
                         {"question", "q"},
                         {"choices", {{"text", {"red", "blue"}}, {"label", {"1", "2"}}}},
                         {"answerKey", "2"}};
  const TaskRow& row = Row("arc_generate");
  for (const char* output : {" 2", "B. blue", "(B)", "Blue!", " 2) blue\nmore"}) {
    EXPECT_EQ(Score(row, document, {output, {}})["scores"]["acc"], 1) << output;
  }
  for (const char* output : {"", " maybe", "green", "3"}) {
    EXPECT_EQ(Score(row, document, {output, {}})["scores"]["format_rate"], 0) << output;
  }
}

// lm-evaluation-harness on the same outputs (gold "... #### 1,018").
TEST(ScoringTest, Gsm8kFilters) {
  const json document = {{"question", "q"}, {"answer", "509 * 2 = <<509*2=1018>>1018\n#### 1,018"}};
  const struct {
    const char* output;
    int strict, flexible;
  } kCases[] = {{" #### 1018", 1, 1},
                {" The answer is $1,018.", 0, 1},
                {"1018 apples ...", 0, 0},
                {"#### 5\n#### 1018", 0, 1},
                {"-$1018", 0, 0},
                {"", 0, 0},
                {"#### 1,018. Then 4", 1, 0}};
  for (const auto& test : kCases) {
    const json sample = Score(Row("gsm8k"), document, {test.output, {}});
    EXPECT_EQ(sample["scores"]["strict_match"], test.strict) << test.output;
    EXPECT_EQ(sample["scores"]["flexible_extract"], test.flexible) << test.output;
  }
}

json Question(const std::vector<std::string>& answers) {
  return {{"id", "q"}, {"answers", {{"text", answers}}}};
}

TEST(ScoringTest, Squad) {
  const TaskRow& row = Row("squadv2");
  const json right = Score(row, Question({"the Cat", "dog"}), {" A cat.", {std::log(0.25)}});
  EXPECT_EQ(right["scores"]["exact"], 1);
  EXPECT_EQ(right["scores"]["HasAns_exact"], 1);
  EXPECT_NEAR(right["noAnswerProbability"].get<double>(), 0.25, 1e-7);
  const json silent = Score(row, Question({}), {"", {std::log(0.9)}});
  const json abstains = Score(row, Question({}), {" unanswerable", {std::log(0.5)}});
  EXPECT_EQ(silent["scores"]["NoAns_f1"], 1);
  EXPECT_EQ(abstains["scores"]["NoAns_exact"], 0);
  EXPECT_EQ(Score(Row("squadv2_abstain"), Question({}), {" unanswerable", {-1}})["scores"]["exact"],
            1);
  MetricTable table = json::object();
  row.scoring->aggregate(row, {right, silent, abstains}, &table);
  EXPECT_NEAR(table["exact"]["value"].get<double>(), 200.0 / 3, 1e-12);
  EXPECT_EQ(table["HasAns_exact"]["value"], 100.0);
  EXPECT_EQ(table["NoAns_exact"]["value"], 50.0);
  // All unanswered 2; the first by probability is right and answered: 3 of 3.
  EXPECT_NEAR(table["best_exact"]["value"].get<double>(), 100.0, 1e-12);
}

TEST(ScoringTest, CoqaLeavesEachAnswerOutOnce) {
  const json document = {{"answers", {{"input_text", {"x", "white"}}}},
                         {"additional_answers",
                          {{"0", {{"input_text", {"x", "White"}}}},
                           {"1", {{"input_text", {"x", "the color white"}}}}}}};
  // Golds: "white" and "the color white"; each is compared with the other alone.
  const json sample = Score(Row("coqa"), document, {" white\nQ", {}});
  EXPECT_EQ(sample["scores"]["em"], 0.5);
  EXPECT_NEAR(sample["scores"]["f1"].get<double>(), (2.0 / 3 + 1) / 2, 1e-12);
  // The authors' script keeps both "white": whichever is left out, but the third, the other is
  // there.
  const json turn = Score(Row("coqa_all"), document, {" white\nQ", {}});
  EXPECT_EQ(turn["scores"]["em"], 1);
  EXPECT_EQ(turn["scores"]["f1"], 1);
}

TEST(ScoringTest, MathByValue) {
  const json document = {{"problem", "p"}, {"expected_answer", "\\frac{1}{2}"}};
  EXPECT_EQ(Score(Row("openmath"), document, {"\\boxed{0.5}", {}})["scores"]["exact_match"], 1);
  const json off = Score(Row("openmath"), document, {"the answer is 2", {}});
  EXPECT_EQ(off["scores"]["exact_match"], 0);
  EXPECT_EQ(off["scores"]["mean_abs_diff"], 1.5);
  const json none = Score(Row("openmath"), document, {"I do not know", {}});
  EXPECT_EQ(none["scores"]["parse_rate"], 0);
  EXPECT_FALSE(none["scores"].contains("mean_abs_diff"));
}

TEST(DocumentsTest, SchemasOfTheHubAndOfTheAuthors) {
  const char kNested[] =
      R"({"data":[{"title":"T","paragraphs":[{"context":"C","qas":[{"id":"a","question":"Q",)"
      R"("answers":[{"text":"x","answer_start":0}],"is_impossible":false}]}]}]})";
  const char kFlat[] =
      R"({"id":"a","title":"T","context":"C","question":"Q","answers":{"text":["x"],"answer_start":[0]}})";
  EXPECT_EQ(*ParseTaskDocuments("squad", kNested, "f"), *ParseTaskDocuments("squad", kFlat, "f"));
  const char kTurns[] =
      R"([{"id":"c","story":"S","questions":[{"input_text":"q1"},{"input_text":"q2"}],)"
      R"("answers":[{"input_text":"a1"},{"input_text":"a2"}],"additional_answers":{}}])";
  const auto turns = ParseTaskDocuments("coqa_all", kTurns, "f");
  ASSERT_TRUE(turns.ok()) << turns.status();
  ASSERT_EQ(turns->size(), 2u);
  EXPECT_EQ((*turns)[0]["id"], "c/1");
  EXPECT_EQ(*Row("coqa_all").prompt->Render((*turns)[1]), "S\n\nQ: q1\n\nA: a1\n\nQ: q2\n\nA:");
}

TEST(DocumentsTest, RefusesWithThePlace) {
  const struct {
    const char* schema;
    const char* text;
    const char* words;
  } kCases[] = {
      {"rows", "{\"a\":1}\nx\n", "line 2 is no JSON object"},
      {"rows", "", "no documents"},
      {"rows", "[1]", "entry 0 is no JSON object"},
      {"rows", "PAR1abc", "is no Parquet file"},
      {"squad", R"({"data":[{"paragraphs":[{"context":"c"}]}]})", "article 0: field \"qas\""},
      {"squad", R"({"id":"a","question":"q","answers":{}})", "\"context\" must be a string"},
      {"coqa", R"({"story":"s","questions":[{"input_text":"q"}],"answers":[]})", "0 turns"},
  };
  for (const auto& test : kCases) {
    const auto documents = ParseTaskDocuments(test.schema, test.text, "f.json");
    ASSERT_FALSE(documents.ok()) << test.text;
    EXPECT_THAT(std::string(documents.status().message()), HasSubstr(test.words));
    EXPECT_THAT(std::string(documents.status().message()), HasSubstr("f.json"));
  }
}

constexpr char kOwn[] =
    "task: capitals\n"
    "prompt: \"Q: {{question}}\\nA:\"\n"
    "target: \"{{answer}}\"\n"
    "generate: {until: [\"\\n\"], max_tokens: 8}\n"
    "score: match\n";

TEST(TaskRowTest, RefusesWithTheLine) {
  ASSERT_TRUE(ParseTaskRow(kOwn, "f").ok()) << ParseTaskRow(kOwn, "f").status();
  const struct {
    std::string yaml;
    const char* words;
  } kCases[] = {
      {std::string(kOwn) + "metric: acc\n", "line 6: metric is no field; there are task"},
      {std::string(kOwn) + "ignore: [\"(\"]\n", "is no regular expression"},
      {std::string(kOwn) + "documents: csv\n", "\"csv\" is no schema"},
      {"task: a\nprompt: \"{{\"\nscore: match\n", "line 2: prompt: line 1: \"{{\" is not closed"},
      {"task: a\nscore: best\n", "\"best\" is no way to score; there are choice"},
      {"task: a b\nprompt: x\n", "task must be a name"},
      {"task: a\nprompt: x\nscore: choice\n", "needs choices"},
      {"task: [", "line"},
      {"- a\n", "no map"},
      {"task: a\nprompt: x\ntarget: y\ngenerate: {until: x}\nscore: match\n",
       "generate.until must be a list"},
  };
  for (const auto& test : kCases) {
    const auto row = ParseTaskRow(test.yaml, "own.yaml");
    ASSERT_FALSE(row.ok()) << test.yaml;
    EXPECT_THAT(std::string(row.status().message()), HasSubstr(test.words));
    EXPECT_THAT(std::string(row.status().message()), HasSubstr("own.yaml"));
  }
}

TEST(RequestsTest, FewShotExamplesAreDrawnAndLeaveTheDocumentOut) {
  const TaskRow row = *ParseTaskRow(kOwn, "f");
  std::vector<json> documents;
  for (int i = 0; i < 6; ++i) {
    documents.push_back({{"id", i}, {"question", std::to_string(i)}, {"answer", "a"}});
  }
  const auto prompts = RenderPrompts(row, {.few_shot = 5}, documents, documents, true);
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  for (int i = 0; i < 6; ++i) {
    const std::string& prompt = (*prompts)[static_cast<size_t>(i)];
    for (int k = 0; k < 6; ++k) {
      const size_t first = prompt.find("Q: " + std::to_string(k));
      ASSERT_NE(first, std::string::npos);
      EXPECT_EQ(prompt.find("Q: " + std::to_string(k), first + 1), std::string::npos);
    }
    EXPECT_EQ(prompt.substr(prompt.rfind("Q: ")), "Q: " + std::to_string(i) + "\nA:");
  }
  EXPECT_FALSE(RenderPrompts(row, {.few_shot = 6}, documents, documents, true).ok());
}

TEST(PredictionsTest, AreScoredByTheSameCode) {
  const std::vector<json> documents = {Question({"cat"}), Question({})};
  std::vector<json> named = documents;
  named[0]["id"] = "a";
  named[1]["id"] = "b";
  for (const char* predictions :
       {R"({"a": "the cat", "b": ""})",
        "{\"id\":\"b\",\"prediction\":\"\"}\n{\"id\":\"a\",\"output\":\"cat\"}\n"}) {
    const auto result = ScorePredictions(Row("squadv2"), "squadv2", named, predictions);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->metrics["squadv2/exact"]["value"], 100.0);
    EXPECT_FALSE(result->metrics.contains("squadv2/best_exact"));
  }
  const auto half = ScorePredictions(Row("squadv2"), "s", named, R"({"a": "dog"})");
  EXPECT_EQ(half->metrics["s/exact"]["missing"], 1);
  EXPECT_EQ(half->metrics["s/exact"]["value"], 0.0);
  EXPECT_FALSE(ScorePredictions(Row("squadv2"), "s", named, R"({"z": "dog"})").ok());
  EXPECT_FALSE(ScorePredictions(Row("squadv2"), "s", named, R"({"a": 1})").ok());
  EXPECT_FALSE(ScorePredictions(Row("arc"), "s", named, R"({"a": "x"})").ok());
}

}  // namespace
}  // namespace quantd::engine
