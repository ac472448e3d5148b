// From a document and a model's answer to numbers: per sample, then over all samples. A pure
// function of both, so that predictions made elsewhere are scored by the same code. Each way to
// score is a row of a table.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/evaluation/task_row.h"

namespace quantd::engine {

struct Answer {
  std::string output;  // What was generated.
  std::vector<double>
      log_probs;  // Of the choices or of the row's continuations; NaN: not a number.
};

// The numbers of a task: name -> {"value", "stderr"?, "lowerIsBetter", "scale"?, "samples"}.
using MetricTable = nlohmann::json;

struct Scoring {
  const char* name;
  const char* summary;
  // The metrics' names, the main one first; of "match" also what its filters are called.
  std::vector<std::string> metrics;
  // Fills sample["scores"][metric] and whatever `aggregate` and people need beside it.
  absl::Status (*score)(const TaskRow& row, const nlohmann::json& document, const Answer& answer,
                        nlohmann::json* sample);
  // From all samples in the order of the documents.
  void (*aggregate)(const TaskRow& row, const std::vector<nlohmann::json>& samples,
                    MetricTable* metrics);
  bool needs_generation;
  bool needs_choices;
};

// InvalidArgument lists the names there are.
absl::StatusOr<const Scoring*> FindScoring(absl::string_view name);

// The row's metrics, the main one first.
std::vector<std::string> MetricNames(const TaskRow& row);

// The texts of the row's choices in `document`; InvalidArgument where there are none.
absl::StatusOr<std::vector<std::string>> ChoiceTexts(const TaskRow& row,
                                                     const nlohmann::json& document);
// The right one's index.
absl::StatusOr<size_t> GoldChoice(const TaskRow& row, const nlohmann::json& document,
                                  const std::vector<std::string>& choices);

// Shared by the files of this room that score.
// Mean and standard error of scores[metric] over the samples that have it.
void AddMean(const std::vector<nlohmann::json>& samples, const std::string& metric,
             MetricTable* metrics, double scale = 1, bool lower_is_better = false);
// Macro F1 over the labels: sample["gold"] against sample[predicted]; "f1".
void AddMacroF1(const std::vector<nlohmann::json>& samples, const char* predicted,
                MetricTable* metrics);

}  // namespace quantd::engine
