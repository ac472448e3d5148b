// Generation sanity: does the model still write sentences? Built-in questions, greedy answers, and
// the checks of generation_checks.h. Perplexity can look fine while generation is broken (a wrong
// end-of-text token, a damaged head, a loop), which is why every variant is asked. And answers can
// look like words while nothing is known any more, which is why a few plain sentences are scored.
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/evaluation/generation_checks.h"
#include "workers/engine/evaluation/scorer.h"
#include "workers/engine/evaluation/task.h"

namespace quantd::engine {
namespace {

struct Prompt {
  const char* question;
  const char* expected;  // Occurs in a right answer; small models may not know it.
};

constexpr Prompt kPrompts[] = {
    {"What is 2+2?", "4"},
    {"What is 7 + 5?", "12"},
    {"Which is larger, 3 or 10?", "10"},
    {"What is the capital of France?", "Paris"},
    {"What color is the sky on a clear day?", "blue"},
    {"How many days are there in a week?", "7"},
    {"Name an animal that lives in the sea.", ""},
    {"Why do people drink water?", ""},
};

constexpr char kPlainText[] =
    "The sun rises in the east and sets in the west. Water is made of hydrogen and oxygen, and "
    "plants need water and light to grow. There are seven days in a week and twelve months in a "
    "year. The dog ran after the ball, and the children went to school in the morning. He was born "
    "in the city and worked there for many years. She said that she would come back when the work "
    "was done. One and one is two, and two and two is four.";

// For the text above. Models of 6 to 17 million parameters need 1.2 bits a byte, 1.35 with 3-bit
// weights; rounded to 2 bits until they write word salad 2.0 to 2.3, random ones 3 and more.
constexpr double kBitsPerByteMax = 1.8;

// One odd answer of eight is bad luck for a small model; three are a broken one.
constexpr double kHealthyShareMin = 0.7;

absl::StatusOr<GenerationFacts> Generate(const TaskContext& context, const Prompt& prompt,
                                         Scorer& scorer) {
  const LoadedModel& model = context.model;
  QD_ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                      model.Encode(absl::StrCat("Question: ", prompt.question, "\nAnswer:"), true));
  const std::vector<int64_t>& stops = model.model->config().eos_token_ids;
  QD_ASSIGN_OR_RETURN(
      const auto outputs,
      model.model->Generate({ids}, {.new_tokens_max = context.options["tokens"].get<int64_t>(),
                                    .stop_ids = stops,
                                    .on_step = [&](absl::Span<const int64_t>) {
                                      return context.job.cancel.Check();
                                    }}));
  GenerationFacts facts;
  facts.vocab_size = model.model->config().vocab_size;
  Sequence sequence{.ids = ids, .scored = static_cast<int64_t>(outputs[0].size())};
  sequence.ids.insert(sequence.ids.end(), outputs[0].begin(), outputs[0].end());
  QD_ASSIGN_OR_RETURN(const std::vector<Score> scores, scorer.Run({sequence}));
  facts.mean_log_prob = scores[0].log_prob / static_cast<double>(sequence.scored);
  facts.ids = outputs[0];
  for (int64_t stop : stops) {
    if (!facts.ids.empty() && facts.ids.back() == stop) {
      facts.ids.pop_back();
      facts.ended = true;
    }
  }
  facts.text = model.Decode(facts.ids);
  return facts;
}

// NaN where the logits are.
absl::StatusOr<double> PlainTextBits(const TaskContext& context, Scorer& scorer) {
  Sequence sequence;
  QD_ASSIGN_OR_RETURN(sequence.ids, context.model.Encode(kPlainText, true));
  sequence.scored = static_cast<int64_t>(sequence.ids.size()) - 1;
  QD_ASSIGN_OR_RETURN(const std::vector<Score> scores, scorer.Run({sequence}));
  const std::string scored = context.model.Decode(absl::MakeConstSpan(sequence.ids).subspan(1));
  return -scores[0].log_prob / std::log(2.0) / static_cast<double>(scored.size());
}

// Empty: the model passes.
std::string FailureReason(double share, double bits_per_byte) {
  if (share < kHealthyShareMin) {
    return absl::StrFormat("only %.0f %% of its answers are in order", 100 * share);
  }
  if (!(bits_per_byte <= kBitsPerByteMax)) {
    return absl::StrFormat("plain sentences cost it %.2f bits a byte, a working model at most %.1f",
                           bits_per_byte, kBitsPerByteMax);
  }
  return "";
}

absl::StatusOr<TaskResult> Run(TaskContext& context) {
  const std::string phase = absl::StrCat("evaluate ", context.key);
  Scorer scorer(context.job, context.model, 1);
  TaskResult result;
  double healthy = 0, right = 0, asked = 0;
  const auto total = static_cast<int64_t>(std::size(kPrompts));
  int64_t done = 0;
  for (const Prompt& prompt : kPrompts) {
    if (context.limit > 0 && done == context.limit) break;
    QD_RETURN_IF_ERROR(context.job.cancel.Check());
    QD_ASSIGN_OR_RETURN(const GenerationFacts facts, Generate(context, prompt, scorer), "asking \"",
                        prompt.question, "\"");
    const std::string defect = FindDefect(facts);
    const bool is_right = prompt.expected[0] != 0 && absl::StrContains(facts.text, prompt.expected);
    healthy += defect.empty() ? 1 : 0;
    right += is_right ? 1 : 0;
    asked += prompt.expected[0] != 0 ? 1 : 0;
    result.samples.push_back({{"id", done},
                              {"prompt", prompt.question},
                              {"text", ReplaceInvalidUtf8(facts.text)},
                              {"defect", defect},
                              {"right", is_right},
                              {"ended", facts.ended},
                              {"meanLogProb", FiniteOrNull(facts.mean_log_prob)},
                              {"repetition", RepetitionRatio(facts.ids)},
                              {"scores", {{context.key + "/share", defect.empty() ? 1 : 0}}}});
    context.job.events.Progress({phase, ++done, total, "sample"});
  }
  QD_ASSIGN_OR_RETURN(const double bits, PlainTextBits(context, scorer));
  const double share = healthy / static_cast<double>(result.samples.size());
  const std::string reason = FailureReason(share, bits);
  const std::string protocol =
      absl::StrCat("built-in questions=", done, " greedy tokens=", context.options["tokens"].dump(),
                   " healthy share>=", kHealthyShareMin, " bits_per_byte<=", kBitsPerByteMax);
  const auto add = [&](const char* name, double value, bool lower) -> nlohmann::json& {
    nlohmann::json& metric = result.metrics[absl::StrCat(context.key, "/", name)];
    metric = {{"value", FiniteOrNull(value)},
              {"samples", done},
              {"protocol", protocol},
              {"lowerIsBetter", lower}};
    return metric;
  };
  nlohmann::json& pass = add("pass", reason.empty() ? 1 : 0, false);
  if (!reason.empty()) pass["reason"] = reason;
  // The texts are few and short, and people want to read them.
  pass["texts"] = result.samples;
  add("share", share, false);
  add("bits_per_byte", bits, true);
  add("right", asked > 0 ? right / asked : 0, false);
  return result;
}

}  // namespace

const Task& SanityTask() {
  static const Task& task = *new Task{
      .name = "sanity",
      .aliases = {},
      .summary = "Asks a few simple questions and detects empty, looping and senseless answers.",
      .options = {{"tokens", OptionType::kInt, 48, {}, 4, 1024, "Most tokens of an answer."}},
      .metrics = {"pass", "share", "bits_per_byte", "right"},
      .needs_data = false,
      .run = Run};
  return task;
}

}  // namespace quantd::engine
