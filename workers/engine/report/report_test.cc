// Verdicts, degradations and the files, from results as jobs leave them: goldens for the rules,
// and the odd inputs that a real sweep gives (failed cells, missing metrics, NaN).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "workers/engine/report/comparison.h"
#include "workers/engine/report/paired.h"
#include "workers/engine/report/plot.h"
#include "workers/engine/report/render.h"
#include "workers/engine/report/verdict.h"

namespace quantd::engine {
namespace {

using ::nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A sweep in the making.
class Sweep {
 public:
  Sweep& Add(const std::string& name, const std::vector<std::pair<std::string, JobInput>>& jobs,
             bool baseline = false) {
    Variant variant{.name = name, .baseline = baseline};
    for (const auto& [suffix, input] : jobs) {
      const std::string job = absl::StrCat("jobs/", name, "-", suffix);
      inputs_[job] = input;
      variant.jobs.push_back(job);
    }
    variants_.push_back(variant);
    return *this;
  }
  json Compare() const {
    auto facts = GatherFacts(variants_, inputs_, [this](const std::string& folder) {
      const auto found = samples.find(folder);
      return found == samples.end() ? std::vector<std::string>{}
                                    : std::vector<std::string>{found->second};
    });
    EXPECT_TRUE(facts.ok()) << facts.status();
    return facts.ok() ? CompareFacts(*std::move(facts)) : json();
  }
  std::map<std::string, std::string> samples;

 private:
  std::vector<Variant> variants_;
  std::map<std::string, JobInput> inputs_;
};

JobInput Evaluated(double perplexity, double accuracy, int64_t size, const std::string& path = "") {
  JobInput input{.path = path, .state = "JOB_STATE_SUCCEEDED"};
  input.spec = {{"evaluate", {{"model", "m"}}}};
  input.result = {
      {"sizeBytes", size},
      {"device", "cpu"},
      {"metrics",
       {{"perplexity",
         {{"value", perplexity},
          {"stderr", 0.05 * perplexity},
          {"meanNll", std::log(perplexity)},
          {"lowerIsBetter", true},
          {"protocol", "p"}}},
        {"arc/acc",
         {{"value", accuracy}, {"stderr", 0.01}, {"lowerIsBetter", false}, {"protocol", "a"}}}}}};
  return input;
}

JobInput Quantized(const std::string& method, int bits, int64_t size) {
  JobInput input{.state = "JOB_STATE_SUCCEEDED"};
  input.spec = {{"quantize", {{"model", "m"}, {"method", method}}}};
  input.result = {{"method", method},       {"bits", bits},         {"format", "gptq"},
                  {"sizeAfterBytes", size}, {"bitsPerWeight", 4.2}, {"quantizationSeconds", 1.5},
                  {"peakHostBytes", 1000}};
  return input;
}

JobInput Failed(const char* kind, const char* message) {
  JobInput input{.state = "JOB_STATE_FAILED"};
  input.spec = {{kind, {{"model", "m"}}}};
  input.failure = {{"message", message}};
  return input;
}

const json& RowOf(const json& comparison, const std::string& name) {
  for (const json& row : comparison["rows"]) {
    if (row["name"] == name) return row;
  }
  static const json none;
  ADD_FAILURE() << "no row " << name;
  return none;
}

// Two windows of equal difference: paired, the error is tiny, unpaired it is 7 %.
std::string Samples(double nll_a, double nll_b) {
  return absl::StrCat("{\"id\":0,\"scores\":{\"perplexity\":", nll_a,
                      "}}\n{\"id\":1,\"scores\":{\"perplexity\":", nll_b, "}}\n");
}

TEST(CompareTest, JudgesASweepAndRecommendsTheSmallestGoodVariant) {
  Sweep sweep;
  sweep.samples["base"] = Samples(std::log(9.0), std::log(11.0));
  const auto scaled = [](double factor) {
    return Samples(std::log(9 * factor) + 1e-4, std::log(11 * factor) - 1e-4);
  };
  sweep.samples["b8"] = scaled(1.0001);
  sweep.samples["b4"] = scaled(1.02);
  sweep.samples["b3"] = scaled(1.12);
  sweep.samples["b2"] = scaled(3);
  sweep.Add("b2", {{"q", Quantized("rtn", 2, 200)}, {"e", Evaluated(30, 0.4, 200, "b2")}})
      .Add("b4", {{"q", Quantized("gptq", 4, 400)}, {"e", Evaluated(10.2, 0.795, 400, "b4")}})
      .Add("b16", {{"e", Evaluated(10, 0.8, 1600, "base")}}, true)
      .Add("b8", {{"q", Quantized("rtn", 8, 800)}, {"e", Evaluated(10.001, 0.8, 800, "b8")}})
      .Add("b3", {{"q", Quantized("gptq", 3, 300)}, {"e", Evaluated(11.2, 0.79, 300, "b3")}})
      .Add("bad", {{"q", Failed("quantize", "boom")}, {"e", {.state = "JOB_STATE_SKIPPED"}}});
  const json comparison = sweep.Compare();
  std::vector<std::string> order, verdicts;
  for (const json& row : comparison["rows"]) {
    order.push_back(row["name"]);
    verdicts.push_back(row["verdict"]);
  }
  EXPECT_THAT(order, ElementsAre("b16", "b8", "b4", "b3", "b2", "bad"));
  EXPECT_THAT(verdicts,
              ElementsAre("baseline", "good", "recommended", "degraded", "broken", "failed"));
  EXPECT_EQ(comparison["recommendation"], "b4");
  EXPECT_THAT(comparison["reason"].get<std::string>(), HasSubstr("4.00 times smaller"));
  const json& b4 = RowOf(comparison, "b4");
  EXPECT_NEAR(b4["degradation"]["perplexity"].get<double>(), 0.02, 1e-12);
  EXPECT_NEAR(b4["degradation"]["arc/acc"].get<double>(), 0.00625, 1e-12);
  EXPECT_LT(b4["degradationError"]["perplexity"].get<double>(), 0.001);
  EXPECT_EQ(b4["paired"], true);
  EXPECT_EQ(b4["method"], "gptq");
  EXPECT_EQ(b4["compressionRatio"], 4.0);
  EXPECT_EQ(RowOf(comparison, "b16")["compressionRatio"], 1.0);
  EXPECT_EQ(RowOf(comparison, "bad")["error"], "quantize failed: boom");
  EXPECT_THAT(RowOf(comparison, "b2")["reason"].get<std::string>(), HasSubstr("3.0 times"));
  EXPECT_THAT(comparison["metricColumns"].get<std::vector<std::string>>(),
              ElementsAre("perplexity", "arc/acc"));
}

TEST(CompareTest, WithoutSamplesAChangeWithinTheErrorsIsNotHeldAgainstAVariant) {
  Sweep sweep;
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600)}}, true)
      .Add("v", {{"e", Evaluated(10.5, 0.8, 400)}});  // 5 % worse, both errors are 5 %.
  const json comparison = sweep.Compare();
  EXPECT_EQ(RowOf(comparison, "v")["verdict"], "recommended");
  EXPECT_THAT(RowOf(comparison, "v")["reason"].get<std::string>(), HasSubstr("within noise"));
}

TEST(CompareTest, NothingGoodMeansTheBaseline) {
  Sweep sweep;
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600)}}, true)
      .Add("v", {{"e", Evaluated(15, 0.5, 400)}});
  const json comparison = sweep.Compare();
  EXPECT_EQ(comparison["recommendation"], "base");
  EXPECT_THAT(comparison["reason"].get<std::string>(), HasSubstr("the closest is v"));
}

TEST(CompareTest, NanAndFailedSanityAreBroken) {
  Sweep sweep;
  JobInput nan = Evaluated(10, 0.8, 400);
  nan.result["metrics"]["perplexity"]["value"] = nullptr;
  JobInput insane = Evaluated(10, 0.8, 400);
  insane.result["metrics"]["sanity/pass"] = {{"value", 0}};
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600)}}, true)
      .Add("nan", {{"e", nan}})
      .Add("insane", {{"e", insane}});
  const json comparison = sweep.Compare();
  EXPECT_EQ(RowOf(comparison, "nan")["verdict"], "broken");
  EXPECT_THAT(RowOf(comparison, "nan")["reason"].get<std::string>(), HasSubstr("not a number"));
  EXPECT_EQ(RowOf(comparison, "insane")["verdict"], "broken");
  EXPECT_EQ(comparison["recommendation"], "base");
}

TEST(CompareTest, AFailedBaselineLeavesVariantsUnjudged) {
  Sweep sweep;
  sweep.Add("base", {{"e", Failed("evaluate", "no memory")}}, true)
      .Add("v", {{"e", Evaluated(10, 0.8, 400)}});
  const json comparison = sweep.Compare();
  EXPECT_EQ(RowOf(comparison, "base")["verdict"], "failed");
  EXPECT_EQ(RowOf(comparison, "v")["verdict"], "unjudged");
}

TEST(CompareTest, EveryModelHasItsOwnBaseline) {
  const auto of = [](const char* model, JobInput input) {
    input.spec["evaluate"]["model"] = model;
    return input;
  };
  Sweep sweep;
  sweep.Add("a16", {{"e", of("a", Evaluated(10, 0.8, 1600))}}, true)
      .Add("b16", {{"e", of("b", Evaluated(20, 0.6, 3200))}}, true)
      .Add("a4", {{"e", of("a", Evaluated(10.1, 0.8, 400))}})
      .Add("b4", {{"e", of("b", Evaluated(20.2, 0.6, 800))}});
  const json comparison = sweep.Compare();
  EXPECT_EQ(comparison["recommendation"], "a4, b4");
  EXPECT_NEAR(RowOf(comparison, "b4")["degradation"]["perplexity"].get<double>(), 0.01, 1e-9);
}

TEST(CompareTest, NearEqualSizesGoByQuality) {
  Sweep sweep;
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 16000)}}, true)
      .Add("rtn", {{"e", Evaluated(10.2, 0.8, 3990)}})
      .Add("gptq", {{"e", Evaluated(10.1, 0.8, 4000)}});
  EXPECT_EQ(sweep.Compare()["recommendation"], "gptq");
}

TEST(CompareTest, DifferentProtocolsAreSaid) {
  Sweep sweep;
  JobInput other = Evaluated(10, 0.8, 400);
  other.result["metrics"]["perplexity"]["protocol"] = "q";
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600)}}, true).Add("v", {{"e", other}});
  EXPECT_THAT(sweep.Compare()["protocols"]["perplexity"].get<std::string>(),
              HasSubstr("NOT COMPARABLE"));
}

TEST(GatherTest, AMissingJobIsAnErrorWithItsName) {
  const auto facts = GatherFacts({{.name = "v", .jobs = {"jobs/x"}}}, {}, nullptr);
  EXPECT_THAT(std::string(facts.status().message()), HasSubstr("jobs/x is not among the inputs"));
  EXPECT_FALSE(GatherFacts({}, {}, nullptr).ok());
  EXPECT_FALSE(GatherFacts({{.name = "v"}}, {}, nullptr).ok());
}

TEST(RenderTest, MarkdownAndCsvHoldEveryRow) {
  Sweep sweep;
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600)}}, true)
      .Add("a|b,\"c\"", {{"q", Quantized("gptq", 4, 400)}, {"e", Evaluated(10.1, 0.8, 400)}})
      .Add("bad", {{"q", Failed("quantize", "boom")}});
  const json comparison = sweep.Compare();
  const std::string markdown = RenderMarkdown(comparison, "My title");
  EXPECT_THAT(markdown, HasSubstr("# My title\n"));
  EXPECT_THAT(markdown, HasSubstr("| a\\|b,\"c\" | **recommended** | gptq | 400 B | 4.00x | 4.20 | "
                                  "10.1000 (1.00 % worse) | 0.8000 (0 % change) |\n"));
  EXPECT_THAT(markdown, HasSubstr("- **bad**: quantize failed: boom\n"));
  EXPECT_THAT(markdown, HasSubstr("| bad | investigate | failed | quantize failed: boom |\n"));
  for (const char* part : {"## Introduction\n", "## Methods and set-up\n", "## Results\n",
                           "## Discussion\n", "## Failures\n", "## To make it again\n"}) {
    EXPECT_THAT(markdown, HasSubstr(part));
  }
  EXPECT_THAT(markdown,
              HasSubstr("- **a|b,\"c\"**: `{\"quantize\":{\"method\":\"gptq\",\"model\":\"m\"}}`"));
  EXPECT_THAT(markdown, HasSubstr("- device: cpu\n"));
  const std::string csv = RenderCsv(comparison);
  EXPECT_THAT(
      csv,
      HasSubstr("\"a|b,\"\"c\"\"\",m,gptq,gptq,false,succeeded,recommended,successful,400,4.0,"));
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 4);
}

TEST(RenderTest, HtmlIsOnePageWithPlotsAndNothingFromElsewhere) {
  Sweep sweep;
  JobInput quantized = Quantized("gptq", 4, 400);
  quantized.result["modules"] = {{{"name", "layers.0.q"}, {"loss", 1.0}},
                                 {{"name", "layers.1.q"}, {"loss", 3.0}}};
  sweep.samples["base"] = Samples(std::log(9.0), std::log(11.0));
  sweep.samples["v"] = Samples(std::log(9.3), std::log(11.1));
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600, "base")}}, true)
      .Add("<v>&", {{"q", quantized}, {"e", Evaluated(10.2, 0.8, 400, "v")}})
      .Add("w", {{"q", Quantized("rtn", 2, 200)}, {"e", Evaluated(90, 0.3, 200)}});
  const json comparison = sweep.Compare();
  const std::string html = RenderHtml(comparison, "A & B");
  EXPECT_THAT(html, HasSubstr("<title>A &amp; B</title>"));
  EXPECT_THAT(html, HasSubstr("&lt;v&gt;&amp;"));
  EXPECT_EQ(html.find("<v>"), std::string::npos);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("http"), std::string::npos);
  EXPECT_THAT(html, HasSubstr("perplexity against size"));
  EXPECT_THAT(html, HasSubstr("Error by module"));
  EXPECT_THAT(html, HasSubstr("layers.1.q"));
  EXPECT_EQ(html.find("nan"), std::string::npos);
  EXPECT_EQ(html.find("inf\""), std::string::npos);
  const auto count = [&](const char* word) {
    int found = 0;
    for (size_t at = html.find(word); at != std::string::npos; at = html.find(word, at + 1))
      ++found;
    return found;
  };
  EXPECT_EQ(count("<svg"), count("</svg>"));
  EXPECT_EQ(count("<figure>"), count("</figure>"));
  EXPECT_EQ(count("<table>"), count("</table>"));
}

TEST(PlotTest, TheFrontHoldsWhatNothingBeats) {
  const ScatterPlot plot{
      .points = {{"a", 4, 10}, {"b", 2, 12}, {"c", 3, 13}, {"d", 1, 30}, {"e", 4, 11}},
      .lower_y_is_better = true};
  EXPECT_THAT(ParetoFront(plot), ElementsAre(3, 1, 0));
}

// R: mcnemar.exact, and a bootstrap whose normal approximation is known.
TEST(PairedTest, TestsAndIntervals) {
  EXPECT_EQ(McNemarProbability(0, 0), 1);
  EXPECT_NEAR(McNemarProbability(1, 8), 0.0390625, 1e-12);
  EXPECT_EQ(McNemarProbability(4, 4), 1);
  EXPECT_NEAR(McNemarProbability(900, 1100), 8.46e-6, 1e-6);
  std::vector<double> differences;
  for (int i = 0; i < 1000; ++i) differences.push_back(0.1 + (i % 2 == 0 ? 1 : -1));
  const Interval interval = BootstrapMean(differences);
  EXPECT_NEAR(interval.low, 0.1 - 1.96 / std::sqrt(1000.0), 0.006);
  EXPECT_NEAR(interval.high, 0.1 + 1.96 / std::sqrt(1000.0), 0.006);
  EXPECT_EQ(BootstrapMean(differences).low, interval.low);
}

std::string Answers(const std::vector<int>& right) {
  std::string lines;
  for (size_t i = 0; i < right.size(); ++i) {
    absl::StrAppend(&lines, "{\"id\":", i, ",\"scores\":{\"arc/acc\":", right[i], "}}\n");
  }
  return lines;
}

TEST(CompareTest, RightAndWrongAnswersHaveMcNemarsTest) {
  Sweep sweep;
  sweep.samples["base"] = Answers({1, 1, 1, 1, 1, 1, 1, 1, 0, 0});
  sweep.samples["v"] = Answers({1, 0, 0, 0, 0, 0, 0, 0, 1, 0});
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600, "base")}}, true)
      .Add("v", {{"e", Evaluated(10, 0.2, 400, "v")}});
  const json comparison = sweep.Compare();
  const json& row = RowOf(comparison, "v");
  EXPECT_NEAR(row["mcnemar"]["arc/acc"].get<double>(), McNemarProbability(1, 7), 1e-12);
  EXPECT_GT(row["degradationInterval"]["arc/acc"][0].get<double>(), 0);
  EXPECT_FALSE(row["mcnemar"].contains("perplexity"));
}

TEST(OutcomeTest, SuccessfulOrWhyNot) {
  Sweep sweep;
  JobInput slow = Evaluated(10, 0.8, 400);
  JobInput fast_benchmark{.state = "JOB_STATE_SUCCEEDED"}, slow_benchmark = fast_benchmark;
  fast_benchmark.spec = slow_benchmark.spec = {{"benchmark", {{"model", "m"}}}};
  fast_benchmark.result = {{"decodeTokensPerSecond", 100.0}};
  slow_benchmark.result = {{"decodeTokensPerSecond", 50.0}};
  JobInput partial = Evaluated(10, 0.8, 400);
  partial.result["metrics"].erase("arc/acc");
  JobInput late = Quantized("gptq", 4, 400);
  late.result["quantizationSeconds"] = 4000;
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600)}, {"b", fast_benchmark}}, true)
      .Add("fine",
           {{"q", Quantized("rtn", 4, 400)}, {"e", Evaluated(11, 0.8, 400)}, {"b", fast_benchmark}})
      .Add("lossy", {{"e", Evaluated(12, 0.8, 400)}})
      .Add("slow", {{"e", slow}, {"b", slow_benchmark}})
      .Add("partial", {{"e", partial}})
      .Add("large", {{"e", Evaluated(10, 0.8, 1590)}})
      .Add("late", {{"q", late}, {"e", Evaluated(10, 0.8, 400)}})
      .Add("failed", {{"q", Failed("quantize", "boom")}});
  const json comparison = sweep.Compare();
  EXPECT_EQ(RowOf(comparison, "base")["outcome"], "baseline");
  EXPECT_EQ(RowOf(comparison, "fine")["outcome"], "successful");
  const std::pair<const char*, const char*> kReasons[] = {
      {"lossy", "perplexity lost 20"}, {"slow", "0.50 times"},
      {"partial", "arc/acc was not"},  {"large", "hardly smaller"},
      {"late", "more than an hour"},   {"failed", "boom"}};
  for (const auto& [name, words] : kReasons) {
    EXPECT_EQ(RowOf(comparison, name)["outcome"], "investigate") << name;
    EXPECT_THAT(RowOf(comparison, name)["outcomeReasons"][0].get<std::string>(), HasSubstr(words));
  }
  const json& uses = comparison["recommendations"][0]["uses"];
  ASSERT_EQ(uses.size(), 5u);
  EXPECT_EQ(uses[4]["use"], "no calibration data");
  EXPECT_EQ(uses[4]["variant"], "fine");
  EXPECT_TRUE(uses[2]["use"].get<std::string>().find("1 % loss") != std::string::npos);
}

TEST(SpeedTest, RunsInTurnsWinOverTwoMeasurements) {
  Sweep sweep;
  JobInput base{.state = "JOB_STATE_SUCCEEDED"}, variant = base;
  base.spec = variant.spec = {{"benchmark", {{"model", "m"}}}};
  base.result = {{"decodeTokensPerSecond", 100.0}};
  // The machine was slower when the variant was measured, and so was the baseline beside it.
  variant.result = {{"decodeTokensPerSecond", 60.0},
                    {"ratio", {{"decode", {{"median", 1.5}, {"min", 1.4}, {"max", 1.6}}}}},
                    {"rows",
                     {{{"batch", 1}, {"promptTokens", 8}, {"prefillTokensPerSecond", 10.0}},
                      {{"batch", 8}, {"promptTokens", 8}, {"skipped", "out of memory"}}}}};
  sweep.Add("base", {{"e", Evaluated(10, 0.8, 1600)}, {"b", base}}, true)
      .Add("v", {{"e", Evaluated(10, 0.8, 400)}, {"b", variant}});
  const json comparison = sweep.Compare();
  EXPECT_EQ(RowOf(comparison, "v")["outcome"], "successful");
  EXPECT_THAT(comparison["reason"].get<std::string>(), HasSubstr("1.50 times the baseline's"));
  const std::string markdown = RenderMarkdown(comparison, "t");
  EXPECT_THAT(markdown, HasSubstr("1.50 (1.40 to 1.60)"));
  EXPECT_THAT(markdown, HasSubstr("| v | 8 | 8 | - |"));
}

TEST(VerdictTest, MetricsThatDecide) {
  EXPECT_NE(FindJudged("perplexity"), nullptr);
  EXPECT_NE(FindJudged("perplexity_c4_txt"), nullptr);
  EXPECT_NE(FindJudged("arc_hard_jsonl/acc"), nullptr);
  EXPECT_EQ(FindJudged("arc/acc_norm"), nullptr);
  EXPECT_EQ(FindJudged("kld"), nullptr);
  EXPECT_EQ(FindJudged("sanity/pass"), nullptr);
}

}  // namespace
}  // namespace quantd::engine
