// Multiple choice by log-likelihood, with the rules of lm-evaluation-harness's arc_easy and
// arc_challenge (version 1.0, 0-shot, harness >= 0.4.9.2): the prompt "Question: {q}\nAnswer:",
// each choice as " " + text; acc takes the choice with the highest log-likelihood, acc_norm divides
// by the choice's length in code points; ties go to the first. The tokenizer's own begin-of-text
// token is put before the prompt. Log-softmax is in float32 whatever the model's dtype, where the
// harness uses the model's.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/evaluation/choice_data.h"
#include "workers/engine/evaluation/parts.h"
#include "workers/engine/evaluation/scorer.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/job/statistics.h"

namespace quantd::engine {
namespace {

// Questions between two checkpoints; about a hundred sequences, seconds of work on a CPU.
constexpr int64_t kQuestionsPerPart = 32;
// ARC's largest file is 1 MB.
constexpr int64_t kDataBytesMax = int64_t{512} << 20;

int64_t CodePoints(absl::string_view text) {
  int64_t count = 0;
  for (size_t position = 0; position < text.size(); ++count) DecodeUtf8(text, &position);
  return count;
}

// The sequence for one choice: context and continuation are split by counting the context's tokens,
// as the harness does, even where a token spans the border.
absl::StatusOr<Sequence> ChoiceSequence(const TaskContext& context, const ChoiceQuestion& question,
                                        absl::string_view choice) {
  const LoadedModel& model = context.model;
  const std::string bos = context.options["bos"];
  const std::string prompt = absl::StrCat("Question: ", question.question, "\nAnswer:");
  const bool special = bos == "tokenizer";
  QD_ASSIGN_OR_RETURN(const std::vector<int64_t> prompt_ids, model.Encode(prompt, special));
  Sequence sequence;
  QD_ASSIGN_OR_RETURN(sequence.ids, model.Encode(absl::StrCat(prompt, " ", choice), special));
  sequence.scored =
      static_cast<int64_t>(sequence.ids.size()) - static_cast<int64_t>(prompt_ids.size());
  if (bos == "always") {
    if (!model.BosId()) {
      return absl::InvalidArgumentError(
          "option \"bos\" is \"always\", but the model names no begin-of-text token");
    }
    sequence.ids.insert(sequence.ids.begin(), *model.BosId());
  }
  // The last max + 1 tokens stay; the last one of them is only predicted.
  const int64_t kept = model.PositionsMax() > 0 ? model.PositionsMax() + 1 : INT64_MAX;
  if (static_cast<int64_t>(sequence.ids.size()) > kept) {
    sequence.ids.erase(sequence.ids.begin(), sequence.ids.end() - kept);
  }
  if (sequence.scored < 1 || sequence.scored >= static_cast<int64_t>(sequence.ids.size())) {
    return absl::InvalidArgumentError(absl::StrCat("a choice of ", sequence.scored,
                                                   " tokens cannot be scored by a model of ",
                                                   model.PositionsMax(), " positions"));
  }
  return sequence;
}

// First index of the largest value; NaN never wins.
size_t ArgMax(const std::vector<double>& values) {
  size_t best = 0;
  for (size_t i = 1; i < values.size(); ++i) {
    if (values[i] > values[best] || (std::isnan(values[best]) && !std::isnan(values[i]))) best = i;
  }
  return best;
}

nlohmann::json JudgeQuestion(const std::string& key, const ChoiceQuestion& question,
                             const std::vector<double>& log_probs) {
  std::vector<double> normalized;
  nlohmann::json shown = nlohmann::json::array();
  bool finite = true;
  for (size_t i = 0; i < log_probs.size(); ++i) {
    normalized.push_back(log_probs[i] / static_cast<double>(CodePoints(question.choices[i])));
    shown.push_back(FiniteOrNull(log_probs[i]));
    finite = finite && std::isfinite(log_probs[i]);
  }
  const size_t best = ArgMax(log_probs), best_norm = ArgMax(normalized);
  // Where logits are not numbers nothing was answered.
  return {{"id", question.id},
          {"gold", question.answer},
          {"chosen", best},
          {"chosenNorm", best_norm},
          {"logProbs", std::move(shown)},
          {"scores",
           {{absl::StrCat(key, "/acc"), finite && best == question.answer ? 1 : 0},
            {absl::StrCat(key, "/acc_norm"), finite && best_norm == question.answer ? 1 : 0}}}};
}

absl::StatusOr<std::vector<nlohmann::json>> ScoreQuestions(
    const TaskContext& context, absl::Span<const ChoiceQuestion> questions, Scorer& scorer,
    const std::function<void(int64_t done_percent)>& on_progress) {
  std::vector<Sequence> sequences;
  for (const ChoiceQuestion& question : questions) {
    for (const std::string& choice : question.choices) {
      QD_ASSIGN_OR_RETURN(sequences.emplace_back(), ChoiceSequence(context, question, choice),
                          "question ", question.id);
    }
  }
  QD_ASSIGN_OR_RETURN(const std::vector<Score> scores, scorer.Run(sequences, [&](int64_t done) {
    on_progress(done * static_cast<int64_t>(questions.size()) /
                static_cast<int64_t>(sequences.size()));
  }));
  std::vector<nlohmann::json> samples;
  size_t next = 0;
  for (const ChoiceQuestion& question : questions) {
    std::vector<double> log_probs;
    for (size_t i = 0; i < question.choices.size(); ++i) {
      log_probs.push_back(scores[next++].log_prob);
    }
    samples.push_back(JudgeQuestion(context.key, question, log_probs));
  }
  return samples;
}

nlohmann::json AccuracyMetric(const std::vector<nlohmann::json>& samples, const std::string& name,
                              const std::string& protocol, const std::string& digest) {
  std::vector<double> values;
  for (const nlohmann::json& sample : samples)
    values.push_back(NumberOrNan(sample["scores"][name]));
  const MeanError accuracy = MeanAndError(values);
  return {{"value", accuracy.mean},    {"stderr", accuracy.standard_error},
          {"samples", samples.size()}, {"protocol", protocol},
          {"dataDigest", digest},      {"lowerIsBetter", false}};
}

absl::StatusOr<TaskResult> Run(TaskContext& context) {
  const std::string phase = absl::StrCat("evaluate ", context.key);
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(context.data_path, kDataBytesMax));
  const std::string digest = Sha256Hex(text);
  QD_ASSIGN_OR_RETURN(const std::vector<ChoiceQuestion> questions,
                      ParseChoiceQuestions(text, context.data_path, context.limit));
  Scorer scorer(context.job, context.model, context.batch_size);
  const auto total = static_cast<int64_t>(questions.size());
  const std::string names[] = {absl::StrCat(context.key, "/acc"),
                               absl::StrCat(context.key, "/acc_norm")};
  const std::string protocol =
      absl::StrCat("sha256:", digest.substr(0, 12), " samples=", total,
                   " 0-shot harness=0.4.9.2 bos=", context.options["bos"].get<std::string>(),
                   " softmax=float32 dtype=", context.model.DtypeName());
  const auto compute = [&](int64_t first, int64_t last) {
    const auto part = absl::MakeConstSpan(questions).subspan(static_cast<size_t>(first),
                                                             static_cast<size_t>(last - first));
    return ScoreQuestions(context, part, scorer, [&](int64_t done) {
      context.job.events.Progress({phase, first + done, total, "sample"});
    });
  };
  const auto on_part = [&](int64_t done, const std::vector<nlohmann::json>& samples) {
    context.job.events.Progress({phase, done, total, "sample"});
    if (done == total) return;
    const nlohmann::json running = AccuracyMetric(samples, names[0], protocol, digest);
    context.job.events.Metric(names[0], running["value"].get<double>(), "", {{"partial", "true"}});
  };
  TaskResult result;
  QD_ASSIGN_OR_RETURN(result.samples, RunParts(context.job,
                                               {.name = context.key,
                                                .fingerprint = TaskFingerprint(context, digest),
                                                .items = total,
                                                .items_per_part = kQuestionsPerPart},
                                               compute, on_part));
  for (const std::string& name : names) {
    result.metrics[name] = AccuracyMetric(result.samples, name, protocol, digest);
  }
  return result;
}

}  // namespace

const Task& MultipleChoiceTask() {
  static const Task& task = *new Task{
      .name = "multiple_choice",
      .alias = "arc",
      .summary = "Multiple choice in ARC's schema, scored as lm-evaluation-harness does.",
      .options =
          {{"bos",
            OptionType::kString,
            "tokenizer",
            {"tokenizer", "none", "always"},
            {},
            {},
            "Begin-of-text token before the prompt: as the tokenizer does by itself (harness "
            ">= 0.4.9.2), never (before that), or always."}},
      .metrics = {"acc", "acc_norm"},
      .needs_data = true,
      .run = Run};
  return task;
}

}  // namespace quantd::engine
