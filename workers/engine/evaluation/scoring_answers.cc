// Question answering by extracted text, and final answers of mathematics.
//
// SQuAD 2.0 (Rajpurkar et al. 2018): a question is scored against the best of its answers; the
// thresholds of best_exact and best_f1 are searched over the probability that the model gives to
// " unanswerable". CoQA (Reddy et al. 2019): with several answers each is left out once and the
// maxima over the others are averaged.
#include <algorithm>
#include <cmath>

#include "base/status_macros.h"
#include "workers/engine/evaluation/math_answer.h"
#include "workers/engine/evaluation/python_text.h"
#include "workers/engine/evaluation/scoring_rows.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/job/statistics.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

constexpr double kPercent = 100;

absl::Status ScoreSquadText(const json& document, const Answer& answer, const std::string& output,
                            json* sample) {
  std::vector<std::string> golds;
  for (const json& text : document["answers"]["text"]) {
    if (!NormalizeAnswer(text.get<std::string>()).empty()) golds.push_back(text);
  }
  const bool answerable = !document["answers"]["text"].empty();
  if (golds.empty()) golds = {""};
  double exact = 0, f1 = 0;
  for (const std::string& gold : golds) {
    exact = std::max(exact, AnswerExact(gold, output));
    f1 = std::max(f1, AnswerF1(gold, output));
  }
  json& scores = (*sample)["scores"];
  scores = {{"exact", exact}, {"f1", f1}};
  scores[answerable ? "HasAns_exact" : "NoAns_exact"] = exact;
  scores[answerable ? "HasAns_f1" : "NoAns_f1"] = f1;
  (*sample)["answerable"] = answerable;
  (*sample)["answered"] = !output.empty();
  if (!answer.log_probs.empty()) {
    // The reference keeps it in single precision.
    (*sample)["noAnswerProbability"] =
        FiniteOrNull(static_cast<float>(std::exp(answer.log_probs[0])));
  }
  return absl::OkStatus();
}

absl::Status ScoreSquad(const TaskRow&, const json& document, const Answer& answer, json* sample) {
  return ScoreSquadText(document, answer, answer.output, sample);
}

absl::Status ScoreSquadAbstain(const TaskRow&, const json& document, const Answer& answer,
                               json* sample) {
  const bool abstains = NormalizeAnswer(answer.output) == "unanswerable";
  return ScoreSquadText(document, answer, abstains ? "" : answer.output, sample);
}

// The best mean of `metric` over all thresholds on the probability of no answer.
double BestScore(const std::vector<json>& samples, const char* metric) {
  double score = 0;
  std::vector<const json*> order;
  for (const json& sample : samples) {
    score += sample["answerable"].get<bool>() ? 0 : 1;
    order.push_back(&sample);
  }
  std::stable_sort(order.begin(), order.end(), [](const json* a, const json* b) {
    return NumberOrNan((*a)["noAnswerProbability"]) < NumberOrNan((*b)["noAnswerProbability"]);
  });
  double best = score;
  for (const json* sample : order) {
    if ((*sample)["answerable"].get<bool>()) {
      score += (*sample)["scores"][metric].get<double>();
    } else {
      score -= (*sample)["answered"].get<bool>() ? 1 : 0;
    }
    best = std::max(best, score);
  }
  return kPercent * best / static_cast<double>(samples.size());
}

void AggregateSquad(const TaskRow&, const std::vector<json>& samples, MetricTable* metrics) {
  for (const char* name : {"exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"}) {
    AddMean(samples, name, metrics, kPercent);
  }
  const bool all_have = std::all_of(samples.begin(), samples.end(), [](const json& sample) {
    return sample.value("noAnswerProbability", json()).is_number();
  });
  if (!all_have) return;
  for (const char* name : {"exact", "f1"}) {
    (*metrics)[std::string("best_") + name] = {{"value", BestScore(samples, name)},
                                               {"samples", samples.size()},
                                               {"lowerIsBetter", false},
                                               {"scale", kPercent}};
  }
}

// The last turn's answers.
std::vector<std::string> CoqaGolds(const json& document) {
  std::vector<std::string> golds = {document["answers"]["input_text"].back().get<std::string>()};
  for (const auto& more : document["additional_answers"]) {
    golds.push_back(more["input_text"].back().get<std::string>());
  }
  return golds;
}

// The same without those that differ only in case from one before.
std::vector<std::string> DifferentCoqaGolds(const json& document) {
  std::vector<std::string> golds;
  for (std::string& text : CoqaGolds(document)) {
    const bool known = std::any_of(golds.begin(), golds.end(), [&](const std::string& gold) {
      return PythonLower(gold) == PythonLower(text);
    });
    if (!known) golds.push_back(std::move(text));
  }
  return golds;
}

double LeaveOneOut(const std::vector<std::string>& golds, const std::string& given,
                   double (*score)(absl::string_view, absl::string_view)) {
  if (golds.size() == 1) return score(golds[0], given);
  double sum = 0;
  for (size_t left_out = 0; left_out < golds.size(); ++left_out) {
    double best = 0;
    for (size_t i = 0; i < golds.size(); ++i) {
      if (i != left_out) best = std::max(best, score(golds[i], given));
    }
    sum += best;
  }
  return sum / static_cast<double>(golds.size());
}

template <std::vector<std::string> (*Golds)(const json&)>
absl::Status ScoreCoqa(const TaskRow&, const json& document, const Answer& answer, json* sample) {
  const std::string stripped(PythonStrip(answer.output));
  const std::string given = stripped.substr(0, stripped.find('\n'));
  const std::vector<std::string> golds = Golds(document);
  (*sample)["scores"] = {{"em", LeaveOneOut(golds, given, AnswerExact)},
                         {"f1", LeaveOneOut(golds, given, AnswerF1)}};
  return absl::OkStatus();
}

void AggregateCoqa(const TaskRow&, const std::vector<json>& samples, MetricTable* metrics) {
  AddMean(samples, "em", metrics);
  AddMean(samples, "f1", metrics);
}

absl::Status ScoreMath(const TaskRow& row, const json& document, const Answer& answer,
                       json* sample) {
  QD_ASSIGN_OR_RETURN(const std::string target, row.target->Render(document), "target");
  // The expected answer stands alone, or at the end of a solution.
  const std::string gold = NormalizeMathAnswer(target.find("\\boxed{") == std::string::npos &&
                                                       target.find("####") == std::string::npos
                                                   ? target
                                                   : ExtractMathAnswer(target).value_or(target));
  const std::optional<std::string> found = ExtractMathAnswer(answer.output);
  const std::string given = found ? NormalizeMathAnswer(*found) : "";
  const std::optional<double> wanted = MathValue(gold), value = MathValue(given);
  const bool equal = found && (given == gold || (wanted && value && *wanted == *value));
  json& scores = (*sample)["scores"];
  scores = {{"exact_match", equal ? 1 : 0}, {"parse_rate", found ? 1 : 0}};
  if (wanted && value) scores["mean_abs_diff"] = std::abs(*wanted - *value);
  (*sample)["gold"] = gold;
  (*sample)["found"] = given;
  return absl::OkStatus();
}

void AggregateMath(const TaskRow&, const std::vector<json>& samples, MetricTable* metrics) {
  AddMean(samples, "exact_match", metrics);
  AddMean(samples, "mean_abs_diff", metrics, 1, /*lower_is_better=*/true);
  std::vector<double> differences;
  for (const json& sample : samples) {
    if (sample["scores"].contains("mean_abs_diff")) {
      differences.push_back(sample["scores"]["mean_abs_diff"]);
    }
  }
  if (!differences.empty()) {
    (*metrics)["median_abs_diff"] = {{"value", Quantile(differences, 0.5)},
                                     {"samples", differences.size()},
                                     {"lowerIsBetter", true}};
  }
  AddMean(samples, "parse_rate", metrics);
}

const std::vector<std::string>& SquadMetrics() {
  static const auto& names =
      *new std::vector<std::string>{"exact",       "f1",       "HasAns_exact", "HasAns_f1",
                                    "NoAns_exact", "NoAns_f1", "best_exact",   "best_f1"};
  return names;
}

}  // namespace

const Scoring& SquadScoring() {
  static const Scoring& scoring =
      *new Scoring{"squad",        "SQuAD 2.0: text against the best of several answers",
                   SquadMetrics(), ScoreSquad,
                   AggregateSquad, true,
                   false};
  return scoring;
}

const Scoring& SquadAbstainScoring() {
  static const Scoring& scoring = *new Scoring{"squad_abstain",
                                               "SQuAD 2.0, where \"unanswerable\" is no answer",
                                               SquadMetrics(),
                                               ScoreSquadAbstain,
                                               AggregateSquad,
                                               true,
                                               false};
  return scoring;
}

const Scoring& CoqaScoring() {
  static const Scoring& scoring = *new Scoring{
      "coqa",        "CoQA: the last turn against several answers, as lm-evaluation-harness does",
      {"f1", "em"},  ScoreCoqa<DifferentCoqaGolds>,
      AggregateCoqa, true,
      false};
  return scoring;
}

const Scoring& CoqaTurnScoring() {
  static const Scoring& scoring = *new Scoring{
      "coqa_turn",   "CoQA: a turn against several answers, as the data set's own script does",
      {"f1", "em"},  ScoreCoqa<CoqaGolds>,
      AggregateCoqa, true,
      false};
  return scoring;
}

const Scoring& MathScoring() {
  static const Scoring& scoring =
      *new Scoring{"math",
                   "the final answer of a solution",
                   {"exact_match", "mean_abs_diff", "median_abs_diff", "parse_rate"},
                   ScoreMath,
                   AggregateMath,
                   true,
                   false};
  return scoring;
}

}  // namespace quantd::engine
