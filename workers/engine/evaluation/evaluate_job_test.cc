// The evaluate job on the bundled model, and on copies of it that are broken on purpose.
#include "workers/engine/evaluation/evaluate_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/job/stopping_sink_test.h"

namespace quantd::engine {
namespace {

using ::nlohmann::json;
using ::testing::HasSubstr;

const std::string kModel = QUANTD_SOURCE_DIR "/models/tiny-6m";
const std::string kText = QUANTD_SOURCE_DIR "/examples/data/wikitext-excerpt.txt";
const std::string kQuestions = QUANTD_SOURCE_DIR "/examples/data/arc.jsonl";
const std::string kData = QUANTD_SOURCE_DIR "/examples/data/";

class EvaluateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/quantd_evaluate_test.XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  absl::StatusOr<json> Evaluate(const EvaluateSpec& spec, EventSink& events,
                                const CancelToken& cancel, const std::string& run = "run") {
    const std::string output = absl::StrCat(folder_, "/", run, "/out");
    const std::string work = absl::StrCat(folder_, "/", run, "/work");
    EXPECT_TRUE(MakeFolders(output).ok());
    EXPECT_TRUE(MakeFolders(work).ok());
    JobContext context{{}, {}, output, work, folder_, events, cancel, nullptr};
    context.spec.kind = spec;
    // One thread: tests run side by side, and this model gains nothing from more.
    context.spec.runtime = {.device = "cpu", .threads = 1};
    return RunEvaluate(context, spec);
  }
  json Metrics(const EvaluateSpec& spec, const std::string& run) {
    RecordingSink events;
    const CancelToken cancel;
    auto result = Evaluate(spec, events, cancel, run);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return json();
    for (auto& metric : (*result)["metrics"]) metric.erase("seconds");
    return (*result)["metrics"];
  }
  // The bundled model with other weights: `change` gives each element's new value.
  std::string BrokenModel(const std::string& name, const std::function<float(float)>& change) {
    const std::string target = absl::StrCat(folder_, "/", name);
    EXPECT_TRUE(MakeFolders(target).ok());
    for (const char* file : {"config.json", "tokenizer.json", "tokenizer_config.json",
                             "generation_config.json", "model.safetensors"}) {
      std::string bytes = *ReadFile(absl::StrCat(kModel, "/", file));
      if (std::string(file) == "model.safetensors") {
        uint64_t header = 0;
        std::memcpy(&header, bytes.data(), 8);
        for (size_t i = 8 + header; i + 1 < bytes.size(); i += 2) {
          // bfloat16 is the upper half of a float32.
          float value = 0;
          std::memcpy(reinterpret_cast<char*>(&value) + 2, bytes.data() + i, 2);
          value = change(value);
          std::memcpy(bytes.data() + i, reinterpret_cast<const char*>(&value) + 2, 2);
        }
      }
      EXPECT_TRUE(WriteFileAtomic(absl::StrCat(target, "/", file), bytes).ok());
    }
    return target;
  }

  std::string folder_;
};

EvaluateSpec Perplexity(int limit, int batch_size, json options = {{"window", 256}}) {
  return {.model = kModel,
          .tasks = {{.name = "perplexity", .data = kText, .limit = limit, .options = options}},
          .batch_size = batch_size};
}

TEST_F(EvaluateTest, NumbersDoNotDependOnTheBatchSize) {
  const json one = Metrics(Perplexity(6, 1), "one")["perplexity"];
  const json four = Metrics(Perplexity(6, 4), "four")["perplexity"];
  EXPECT_EQ(one["value"], four["value"]);
  EXPECT_EQ(one["tokens"], 6 * 255);
  EXPECT_GT(one["bitsPerByte"].get<double>(), 1.0);
  EXPECT_LT(one["bitsPerByte"].get<double>(), 3.0);
  EXPECT_THAT(one["protocol"].get<std::string>(), HasSubstr("window=256 stride=256 bos=tokenizer"));
}

TEST_F(EvaluateTest, OverlapIsScoredOnceAndHelps) {
  const json apart = Metrics(Perplexity(0, 0, {{"window", 256}, {"max_tokens", 2048}}), "apart");
  const json overlap = Metrics(
      Perplexity(0, 0, {{"window", 256}, {"stride", 128}, {"max_tokens", 2048}}), "overlap");
  EXPECT_EQ(apart["perplexity"]["tokens"], 8 * 255);
  EXPECT_EQ(overlap["perplexity"]["tokens"], 255 + 14 * 128);
  EXPECT_LT(overlap["perplexity"]["value"].get<double>(),
            apart["perplexity"]["value"].get<double>());
}

TEST_F(EvaluateTest, MultipleChoiceIsRightOnEasyQuestionsInAnyOrder) {
  const EvaluateSpec spec{.model = kModel,
                          .tasks = {{.name = "arc", .data = kQuestions, .limit = 40}}};
  const json metrics = Metrics(spec, "straight");
  EXPECT_GT(metrics["arc/acc"]["value"].get<double>(), 0.6);
  EXPECT_EQ(metrics["arc/acc"]["samples"], 40);
  // The same questions backwards, one at a time: the same answers.
  std::vector<std::string> lines = absl::StrSplit(*ReadFile(kQuestions), '\n');
  std::reverse(lines.begin(), lines.begin() + 40);
  std::string reversed;
  for (int i = 0; i < 40; ++i) absl::StrAppend(&reversed, lines[static_cast<size_t>(i)], "\n");
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/reversed.jsonl", reversed).ok());
  EvaluateSpec backwards = spec;
  backwards.tasks[0].data = folder_ + "/reversed.jsonl";
  backwards.batch_size = 3;
  const json again = Metrics(backwards, "backwards");
  EXPECT_EQ(metrics["arc/acc"]["value"], again["arc/acc"]["value"]);
  EXPECT_EQ(metrics["arc/acc_norm"]["value"], again["arc/acc_norm"]["value"]);
  // Not only the answers: every log-likelihood, to the last bit.
  std::map<std::string, json> first;
  for (absl::string_view line : absl::StrSplit(
           *ReadFile(folder_ + "/straight/out/samples_arc.jsonl"), '\n', absl::SkipEmpty())) {
    const json sample = json::parse(line);
    first[sample["id"]] = sample;
  }
  int compared = 0;
  for (absl::string_view line : absl::StrSplit(
           *ReadFile(folder_ + "/backwards/out/samples_arc.jsonl"), '\n', absl::SkipEmpty())) {
    const json sample = json::parse(line);
    EXPECT_EQ(sample.dump(), first[sample["id"]].dump());
    ++compared;
  }
  EXPECT_EQ(compared, 40);
}

// Generated answers: what the bundled model was trained to do, resumed to the same bytes.
TEST_F(EvaluateTest, ExtractsAnswersAndGoesOnAfterAStop) {
  const EvaluateSpec spec{.model = kModel,
                          .tasks = {{.name = "squadv2",
                                     .data = kData + "squad_v2.json",
                                     .limit = 48,
                                     .options = {{"max_tokens", 16}}},
                                    {.name = "openmath",
                                     .data = kData + "openmath.jsonl",
                                     .limit = 8,
                                     .options = {{"max_tokens", 48}}}}};
  const json whole = Metrics(spec, "whole");
  EXPECT_GT(whole["squadv2/HasAns_exact"]["value"].get<double>(), 90);
  EXPECT_GT(whole["openmath/exact_match"]["value"].get<double>(), 0.7);
  EXPECT_EQ(whole["openmath/parse_rate"]["value"], 1.0);
  const CancelToken cancel;
  StoppingSink events(1, cancel);
  const auto stopped = Evaluate(spec, events, cancel, "stopped");
  ASSERT_EQ(stopped.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Metrics(spec, "stopped").dump(), whole.dump());
  EXPECT_EQ(*ReadFile(folder_ + "/stopped/out/samples_squadv2.jsonl"),
            *ReadFile(folder_ + "/whole/out/samples_squadv2.jsonl"));
}

constexpr char kOwnYaml[] =
    "task: colors\n"
    "prompt: \"Title: {{who}}\\n\\nBackground: The favorite color of {{who}} is {{answer}}.\\n\\n"
    "Question: What is the favorite color of {{who}}?\\n\\nAnswer:\"\n"
    "target: \"{{answer}}\"\n"
    "few_shot: {count: 1}\n"
    "generate: {until: [\"\\n\"], max_tokens: 8}\n"
    "score: match\n";

TEST_F(EvaluateTest, ATaskOfTheUsersOwn) {
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/colors.jsonl",
                              "{\"who\":\"Adam\",\"answer\":\"green\"}\n"
                              "{\"who\":\"Elsa\",\"answer\":\"silver\"}\n"
                              "{\"who\":\"Lily\",\"answer\":\"grey\"}\n")
                  .ok());
  const json metrics = Metrics({.model = kModel,
                                .tasks = {{.name = "own",
                                           .data = folder_ + "/colors.jsonl",
                                           .options = {{"definition", kOwnYaml}}}}},
                               "own");
  EXPECT_EQ(metrics["colors/exact_match"]["samples"], 3);
  EXPECT_GT(metrics["colors/exact_match"]["value"].get<double>(), 0.6);
  EXPECT_THAT(metrics["colors/exact_match"]["protocol"].get<std::string>(), HasSubstr("1-shot"));
}

// A model whose every answer is the end of the text is wrong, and no more.
TEST_F(EvaluateTest, AnswersThatAreEmptyOrTooLongAreRecorded) {
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/long.jsonl",
                              absl::StrCat("{\"id\":\"a\",\"problem\":\"", std::string(9000, 'x'),
                                           "\",\"expected_answer\":\"1\"}\n"))
                  .ok());
  const json metrics = Metrics({.model = kModel,
                                .tasks = {{.name = "openmath",
                                           .data = folder_ + "/long.jsonl",
                                           .options = {{"max_tokens", 4}}}}},
                               "long");
  EXPECT_EQ(metrics["openmath/exact_match"]["samples"], 1);
  const json nothing = Metrics({.model = BrokenModel("zero", [](float) { return 0.0F; }),
                                .tasks = {{.name = "openmath",
                                           .data = kData + "openmath.jsonl",
                                           .limit = 2,
                                           .options = {{"max_tokens", 4}}}}},
                               "nothing");
  EXPECT_EQ(nothing["openmath/exact_match"]["value"], 0.0);
}

TEST_F(EvaluateTest, AStoppedJobGoesOnToTheSameResult) {
  const EvaluateSpec spec{
      .model = kModel,
      .tasks = {{.name = "perplexity", .data = kText, .limit = 40, .options = {{"window", 64}}},
                {.name = "arc", .data = kQuestions, .limit = 64}}};
  const json whole = Metrics(spec, "whole");
  for (int checkpoints : {1, 4}) {
    const std::string run = absl::StrCat("stopped", checkpoints);
    const CancelToken cancel;
    StoppingSink events(checkpoints, cancel);
    const auto stopped = Evaluate(spec, events, cancel, run);
    ASSERT_EQ(stopped.status().code(), absl::StatusCode::kCancelled) << checkpoints;
    EXPECT_EQ(Metrics(spec, run).dump(), whole.dump());
    for (const char* file : {"samples_perplexity.jsonl", "samples_arc.jsonl"}) {
      EXPECT_EQ(*ReadFile(absl::StrCat(folder_, "/", run, "/out/", file)),
                *ReadFile(absl::StrCat(folder_, "/whole/out/", file)));
    }
  }
}

TEST_F(EvaluateTest, CheckpointsOfAnotherSpecAreNotUsed) {
  const json first = Metrics(Perplexity(4, 0, {{"window", 64}}), "same");
  const json second = Metrics(Perplexity(4, 0, {{"window", 128}}), "same");
  EXPECT_EQ(second["perplexity"]["tokens"], 4 * 127);
  EXPECT_NE(first["perplexity"]["value"], second["perplexity"]["value"]);
}

TEST_F(EvaluateTest, DivergenceFromItselfIsZero) {
  const EvaluateSpec spec{
      .model = kModel,
      .tasks = {{.name = "kld", .data = kText, .limit = 2, .options = {{"window", 128}}}}};
  const json metrics = Metrics(spec, "self");
  EvaluateSpec named = spec;
  named.tasks[0].options["reference"] = kModel;
  EXPECT_EQ(Metrics(named, "named").dump(), metrics.dump());
  EXPECT_NEAR(metrics["kld"]["value"].get<double>(), 0, 1e-9);
  EXPECT_EQ(metrics["kld/top1"]["value"], 1.0);
  EXPECT_NEAR(metrics["kld/delta_p_rms"]["value"].get<double>(), 0, 1e-9);
}

TEST_F(EvaluateTest, SanityTellsWorkingFromBroken) {
  const auto sanity = [&](const std::string& model, const std::string& run, int limit = 3) {
    return Metrics({.model = model, .tasks = {{.name = "sanity", .limit = limit}}}, run);
  };
  const json good = sanity(kModel, "good", 0);
  EXPECT_EQ(good["sanity/pass"]["value"], 1) << good.dump(2);
  EXPECT_LT(good["sanity/bits_per_byte"]["value"].get<double>(), 1.4);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02F);
  const json guessing =
      sanity(BrokenModel("random", [&](float) { return normal(random); }), "random_run");
  EXPECT_EQ(guessing["sanity/pass"]["value"], 0) << guessing.dump(2);
  // Noise as large as the weights leaves words, but no sense.
  const json noisy =
      sanity(BrokenModel("noisy", [&](float weight) { return weight * (1 + 50 * normal(random)); }),
             "noisy_run");
  EXPECT_EQ(noisy["sanity/pass"]["value"], 0) << noisy.dump(2);
  EXPECT_GT(noisy["sanity/bits_per_byte"]["value"].get<double>(), 1.8);
  const json zero = sanity(BrokenModel("zero", [](float) { return 0.0F; }), "zero_run");
  EXPECT_EQ(zero["sanity/pass"]["value"], 0) << zero.dump(2);
  const json nan = sanity(BrokenModel("nan", [](float) { return NAN; }), "nan_run");
  EXPECT_EQ(nan["sanity/pass"]["value"], 0) << nan.dump(2);
}

TEST_F(EvaluateTest, NanLogitsAreAResultNotACrash) {
  EvaluateSpec spec = Perplexity(2, 0);
  spec.tasks.push_back({.name = "arc", .data = kQuestions, .limit = 4});
  spec.model = BrokenModel("nan", [](float) { return NAN; });
  const json metrics = Metrics(spec, "nan_run");
  EXPECT_TRUE(metrics["perplexity"]["value"].is_null());
  EXPECT_EQ(metrics["arc/acc"]["value"], 0.0);
}

TEST_F(EvaluateTest, RefusesWithTheField) {
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/short.txt", "too short").ok());
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/bad.txt", "\xff\xfe").ok());
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/bad.jsonl", "{}\n").ok());
  const struct {
    TaskSpec task;
    const char* words;
    ErrorClass error_class;
  } kCases[] = {
      {{.name = "perplexty"}, "did you mean \"perplexity\"?", ErrorClass::kInvalidSpec},
      {{.name = "perplexity"}, "evaluate.tasks[0]: data is empty", ErrorClass::kInvalidSpec},
      {{.name = "perplexity", .data = "/no/file"}, "no such file", ErrorClass::kBadInput},
      {{.name = "perplexity", .data = kText, .limit = -1}, "limit is -1", ErrorClass::kInvalidSpec},
      {{.name = "perplexity", .data = kText, .options = {{"windw", 1}}},
       "unknown option \"windw\"",
       ErrorClass::kInvalidSpec},
      {{.name = "perplexity", .data = kText, .options = {{"window", 4096}}},
       "at most 2048",
       ErrorClass::kInvalidSpec},
      {{.name = "perplexity", .data = kText, .options = {{"window", 64}, {"stride", 65}}},
       "\"stride\" is 65",
       ErrorClass::kInvalidSpec},
      {{.name = "perplexity", .data = folder_ + "/short.txt"},
       "fewer than one window",
       ErrorClass::kInvalidSpec},
      {{.name = "perplexity", .data = folder_ + "/bad.txt"},
       "not valid UTF-8",
       ErrorClass::kBadInput},
      {{.name = "arc", .data = folder_ + "/bad.jsonl"}, "line 1", ErrorClass::kBadInput},
      {{.name = "squadv2", .data = folder_ + "/bad.jsonl"}, "\"context\"", ErrorClass::kBadInput},
      {{.name = "own", .data = kQuestions}, "\"definition\"", ErrorClass::kInvalidSpec},
      {{.name = "own", .data = kQuestions, .options = {{"definition", "task: x\nscroe: match\n"}}},
       "line 2: scroe is no field",
       ErrorClass::kInvalidSpec},
      {{.name = "arc", .data = kQuestions, .options = {{"chat_template", true}}},
       "has neither a chat_template.jinja",
       ErrorClass::kInvalidSpec},
      {{.name = "gsm8k",
        .data = kData + "openmath.jsonl",
        .limit = 1,
        .options = {{"num_fewshot", 0}}},
       "\"question\" is not there",
       ErrorClass::kInvalidSpec},
      {{.name = "kld", .data = kText, .options = {{"reference", "/no/model"}}},
       "loading the reference",
       ErrorClass::kBadInput},
      {{.name = "sanity", .options = {{"tokens", 1}}}, "at least 4", ErrorClass::kInvalidSpec},
  };
  for (const auto& test : kCases) {
    RecordingSink events;
    const CancelToken cancel;
    const auto result = Evaluate({.model = kModel, .tasks = {test.task}}, events, cancel);
    ASSERT_FALSE(result.ok()) << test.words;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(test.words));
    EXPECT_EQ(ErrorClassOf(result.status()), test.error_class) << result.status();
  }
}

TEST_F(EvaluateTest, APromiseThatCannotBeKeptFailsEarly) {
  RecordingSink events;
  const CancelToken cancel;
  JobContext context{{}, {}, folder_, folder_, folder_, events, cancel, nullptr};
  context.spec.runtime = {.device = "cpu", .host_memory_bytes = 1 << 20};
  const auto result = RunEvaluate(context, {.model = kModel, .tasks = {{.name = "sanity"}}});
  EXPECT_EQ(ErrorClassOf(result.status()), ErrorClass::kOutOfMemory);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("hostMemoryBytes is 1"));
}

TEST(TaskTest, EveryTaskIsDescribed) {
  for (const Task* task : Tasks()) {
    EXPECT_FALSE(task->summary.empty());
    EXPECT_FALSE(task->metrics.empty());
    EXPECT_NE(task->run, nullptr);
    // The defaults of all options are allowed values.
    json defaults = json::object();
    for (const OptionInfo& option : task->options) defaults[option.name] = option.default_value;
    EXPECT_TRUE(ResolveOptionValues(task->name, task->options, defaults).ok()) << task->name;
    EXPECT_EQ(*FindTask(task->name), task);
  }
  EXPECT_EQ((*FindTask("arc"))->name, "arc_easy");
}

}  // namespace
}  // namespace quantd::engine
