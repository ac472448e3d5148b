// Multiple choice and matches, the table of all ways to score, and what they share. Question
// answering is in scoring_answers.cc.
#include "workers/engine/evaluation/scoring.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/documents.h"
#include "workers/engine/evaluation/python_text.h"
#include "workers/engine/evaluation/scoring_rows.h"
#include "workers/engine/evaluation/task.h"
#include "workers/engine/job/statistics.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

// Of the bootstrap that gives macro F1 its standard error.
constexpr int kErrorDraws = 200;
constexpr uint64_t kErrorSeed = 1;

// First index of the largest value; NaN never wins.
size_t ArgMax(const std::vector<double>& values) {
  size_t best = 0;
  for (size_t i = 1; i < values.size(); ++i) {
    if (values[i] > values[best] || (std::isnan(values[best]) && !std::isnan(values[i]))) best = i;
  }
  return best;
}

absl::Status ScoreChoice(const TaskRow& row, const json& document, const Answer& answer,
                         json* sample) {
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> choices, ChoiceTexts(row, document));
  QD_ASSIGN_OR_RETURN(const size_t gold, GoldChoice(row, document, choices));
  if (answer.log_probs.size() != choices.size()) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", answer.log_probs.size(),
                                                   " log-likelihoods for ", choices.size(),
                                                   " choices"));
  }
  std::vector<double> normalized;
  bool finite = true;
  for (size_t i = 0; i < choices.size(); ++i) {
    normalized.push_back(answer.log_probs[i] /
                         static_cast<double>(std::max<int64_t>(1, CodePointCount(choices[i]))));
    finite = finite && std::isfinite(answer.log_probs[i]);
  }
  const size_t best = ArgMax(answer.log_probs), best_norm = ArgMax(normalized);
  (*sample)["gold"] = gold;
  // Where logits are not numbers nothing was answered.
  (*sample)["chosen"] = finite ? json(best) : json();
  (*sample)["chosenNorm"] = finite ? json(best_norm) : json();
  (*sample)["scores"] = {{"acc", finite && best == gold ? 1 : 0},
                         {"acc_norm", finite && best_norm == gold ? 1 : 0}};
  return absl::OkStatus();
}

void AggregateChoice(const TaskRow&, const std::vector<json>& samples, MetricTable* metrics) {
  AddMean(samples, "acc", metrics);
  AddMean(samples, "acc_norm", metrics);
  AddMacroF1(samples, "chosen", metrics);
}

// The choice that an output names: by its letter or number at the start, or by its whole text.
json NamedChoice(const json& document, const std::vector<std::string>& choices,
                 const std::string& output) {
  const std::string line(PythonStrip(output.substr(0, output.find('\n'))));
  for (size_t i = 0; i < choices.size(); ++i) {
    if (AnswerExact(choices[i], line) == 1 && !NormalizeAnswer(line).empty()) return i;
  }
  const json* labels = FindPath(document, "choices.label");
  size_t begin = 0;
  while (begin < line.size() && !std::isalnum(static_cast<unsigned char>(line[begin]))) ++begin;
  size_t end = begin;
  while (end < line.size() && std::isalnum(static_cast<unsigned char>(line[end]))) ++end;
  const std::string word = line.substr(begin, end - begin);
  for (size_t i = 0; i < choices.size(); ++i) {
    const std::string letter(1, static_cast<char>('A' + i));
    const bool labelled =
        labels != nullptr && labels->is_array() && i < labels->size() && (*labels)[i] == word;
    if (labelled || (!word.empty() && word == letter)) return i;
  }
  return nullptr;
}

absl::Status ScoreLabel(const TaskRow& row, const json& document, const Answer& answer,
                        json* sample) {
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> choices, ChoiceTexts(row, document));
  QD_ASSIGN_OR_RETURN(const size_t gold, GoldChoice(row, document, choices));
  const json chosen = NamedChoice(document, choices, answer.output);
  (*sample)["gold"] = gold;
  (*sample)["chosen"] = chosen;
  (*sample)["scores"] = {{"acc", chosen == gold ? 1 : 0},
                         {"format_rate", chosen.is_null() ? 0 : 1}};
  return absl::OkStatus();
}

void AggregateLabel(const TaskRow&, const std::vector<json>& samples, MetricTable* metrics) {
  AddMean(samples, "acc", metrics);
  AddMacroF1(samples, "chosen", metrics);
  AddMean(samples, "format_rate", metrics);
}

// What lm-evaluation-harness answers where a filter finds nothing.
constexpr char kInvalid[] = "[invalid]";

absl::StatusOr<std::string> Filtered(const AnswerFilter& filter, const std::string& output) {
  QD_ASSIGN_OR_RETURN(const std::vector<std::string> matches, filter.regex.FindAll(output));
  if (matches.empty()) return std::string(kInvalid);
  const std::string& match = filter.last ? matches.back() : matches.front();
  return match.empty() ? kInvalid : std::string(PythonStrip(match));
}

absl::StatusOr<std::string> Comparable(const TaskRow& row, std::string text) {
  for (const AnswerRegex& ignored : row.ignore) {
    QD_ASSIGN_OR_RETURN(text, ignored.Remove(text));
  }
  return row.ignore_case ? PythonLower(text) : text;
}

absl::Status ScoreMatch(const TaskRow& row, const json& document, const Answer& answer,
                        json* sample) {
  QD_ASSIGN_OR_RETURN(const std::string target, row.target->Render(document), "target");
  QD_ASSIGN_OR_RETURN(std::string gold, Comparable(row, target));
  json& scores = (*sample)["scores"] = json::object();
  if (row.filters.empty()) {
    QD_ASSIGN_OR_RETURN(const std::string given, Comparable(row, answer.output));
    scores["exact_match"] = PythonStrip(given) == PythonStrip(gold) ? 1 : 0;
    return absl::OkStatus();
  }
  for (const AnswerFilter& filter : row.filters) {
    QD_ASSIGN_OR_RETURN(const std::string found, Filtered(filter, answer.output));
    (*sample)["found"][filter.metric] = found;
    QD_ASSIGN_OR_RETURN(const std::string given, Comparable(row, found));
    scores[filter.metric] = given == gold ? 1 : 0;
  }
  return absl::OkStatus();
}

void AggregateMatch(const TaskRow& row, const std::vector<json>& samples, MetricTable* metrics) {
  for (const std::string& name : MetricNames(row)) AddMean(samples, name, metrics);
}

const std::array<const Scoring*, 8>& Table() {
  static const Scoring& choice = *new Scoring{"choice",
                                              "multiple choice by log-likelihood",
                                              {"acc", "acc_norm", "f1"},
                                              ScoreChoice,
                                              AggregateChoice,
                                              false,
                                              true};
  static const Scoring& label = *new Scoring{"label",
                                             "multiple choice by a generated label",
                                             {"acc", "f1", "format_rate"},
                                             ScoreLabel,
                                             AggregateLabel,
                                             true,
                                             true};
  static const Scoring& match = *new Scoring{
      "match", "the answer equals the target", {"exact_match"}, ScoreMatch, AggregateMatch, true,
      false};
  static const std::array<const Scoring*, 8> table = {&choice,
                                                      &label,
                                                      &match,
                                                      &SquadScoring(),
                                                      &SquadAbstainScoring(),
                                                      &CoqaScoring(),
                                                      &CoqaTurnScoring(),
                                                      &MathScoring()};
  return table;
}

}  // namespace

absl::StatusOr<const Scoring*> FindScoring(absl::string_view name) {
  std::vector<std::string> names;
  for (const Scoring* scoring : Table()) {
    if (scoring->name == name) return scoring;
    names.push_back(scoring->name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", name, "\" is no way to score; there are ", absl::StrJoin(names, ", ")));
}

std::vector<std::string> MetricNames(const TaskRow& row) {
  if (row.filters.empty()) return row.scoring->metrics;
  std::vector<std::string> names;
  for (const AnswerFilter& filter : row.filters) names.push_back(filter.metric);
  return names;
}

absl::StatusOr<std::vector<std::string>> ChoiceTexts(const TaskRow& row, const json& document) {
  const json* found = FindPath(document, row.choices);
  if (found == nullptr || !found->is_array() || found->size() < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "choices: \"", row.choices, "\" is no list of two or more texts in the document"));
  }
  std::vector<std::string> texts;
  for (const json& text : *found) {
    if (!text.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("choices: \"", row.choices, "\" holds something that is no text"));
    }
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

absl::StatusOr<size_t> GoldChoice(const TaskRow& row, const json& document,
                                  const std::vector<std::string>& choices) {
  QD_ASSIGN_OR_RETURN(const std::string gold, row.gold->Render(document), "gold");
  // A number first: "2" is the third of the choices 2, 4 and 8, as in lm-evaluation-harness.
  size_t index = 0;
  if (absl::SimpleAtoi(gold, &index) && index < choices.size()) return index;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (choices[i] == gold) return i;
  }
  return absl::InvalidArgumentError(absl::StrCat("gold: \"", gold, "\" is neither one of the ",
                                                 choices.size(), " choices nor a number from 0 to ",
                                                 choices.size() - 1));
}

void AddMean(const std::vector<json>& samples, const std::string& metric, MetricTable* metrics,
             double scale, bool lower_is_better) {
  std::vector<double> values;
  for (const json& sample : samples) {
    const auto found = sample["scores"].find(metric);
    if (found != sample["scores"].end() && found->is_number()) values.push_back(*found);
  }
  // A subset that is empty has no mean.
  if (values.empty()) return;
  const MeanError mean = MeanAndError(values);
  json& entry = (*metrics)[metric];
  entry = {{"value", scale * mean.mean},
           {"stderr", scale * mean.standard_error},
           {"samples", values.size()},
           {"lowerIsBetter", lower_is_better}};
  if (scale != 1) entry["scale"] = scale;
}

namespace {

// Macro F1 of some of the samples, drawn again and again.
class MacroF1 {
 public:
  explicit MacroF1(const std::vector<json>& samples, const char* predicted) {
    std::map<int64_t, size_t> places;
    std::vector<std::pair<int64_t, std::optional<int64_t>>> labels;
    for (const json& sample : samples) {
      const json& given = sample[predicted];
      labels.emplace_back(sample["gold"].get<int64_t>(),
                          given.is_number() ? std::optional(given.get<int64_t>()) : std::nullopt);
      places[labels.back().first];
      if (labels.back().second) places[*labels.back().second];
    }
    size_t next = 0;
    for (auto& [label, place] : places) place = next++;
    counts_.resize(places.size());
    for (const auto& [gold, given] : labels) {
      answers_.push_back({places[gold], given ? places[*given] : kNothing});
    }
  }

  size_t size() const { return answers_.size(); }
  void Clear() { std::fill(counts_.begin(), counts_.end(), Count()); }
  void Add(size_t sample) {
    const auto& [gold, given] = answers_[sample];
    counts_[gold].gold += 1;
    if (given == kNothing) return;
    counts_[given].predicted += 1;
    if (given == gold) counts_[gold].right += 1;
  }
  // Over the labels that those added since Clear have.
  double Value() const {
    double sum = 0, labels = 0;
    for (const Count& count : counts_) {
      const double both = count.predicted + count.gold;
      if (both == 0) continue;
      sum += 2 * count.right / both;
      labels += 1;
    }
    return labels == 0 ? 0 : sum / labels;
  }

 private:
  static constexpr size_t kNothing = SIZE_MAX;
  struct Count {
    double right = 0, predicted = 0, gold = 0;
  };
  std::vector<std::pair<size_t, size_t>> answers_;  // The right one's place in counts_, the given.
  std::vector<Count> counts_;                       // In the labels' order.
};

}  // namespace

void AddMacroF1(const std::vector<json>& samples, const char* predicted, MetricTable* metrics) {
  MacroF1 f1(samples, predicted);
  std::mt19937_64 random(kErrorSeed);
  std::vector<double> drawn;
  for (int draw = 0; draw < kErrorDraws; ++draw) {
    f1.Clear();
    for (size_t i = 0; i < f1.size(); ++i) f1.Add(random() % f1.size());
    drawn.push_back(f1.Value());
  }
  // The bootstrap's standard error is the draws' spread, not that of their mean.
  const double error =
      MeanAndError(drawn).standard_error * std::sqrt(static_cast<double>(kErrorDraws));
  f1.Clear();
  for (size_t i = 0; i < f1.size(); ++i) f1.Add(i);
  (*metrics)["f1"] = {{"value", f1.Value()},
                      {"stderr", error},
                      {"samples", samples.size()},
                      {"lowerIsBetter", false}};
}

}  // namespace quantd::engine
