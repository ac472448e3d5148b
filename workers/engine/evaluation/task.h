// What an evaluation task is: data that describes it (announced by workers) and one function from a
// loaded model to metrics. A new task is a YAML file in tasks/ (task_row.h says what it holds);
// what is no question and answer is a new file with its Task and one line in task.cc.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/evaluation/loaded_model.h"
#include "workers/engine/job/context.h"
#include "workers/engine/job/options.h"

namespace quantd::engine {

struct TaskRow;

struct TaskContext {
  JobContext& job;
  const LoadedModel& model;
  std::string key;            // The task's name in this job, unique: "arc", "perplexity".
  std::string data_path;      // Empty where the spec names no data.
  std::string few_shot_path;  // Where few-shot examples are drawn from; empty: the data itself.
  int limit = 0;              // 0: all.
  nlohmann::json options;     // Resolved.
  int batch_size = 0;         // 0: the task's choice.
  const TaskRow* row = nullptr;
};

struct TaskResult {
  // By metric name: {"value", "protocol", "samples", "stderr", ...}. A value of null is one that is
  // not finite.
  nlohmann::json metrics = nlohmann::json::object();
  // One object a sample: {"id", "scores": {metric: number}, ...}, in the order of the data; written
  // to samples_KEY.jsonl. Reports pair variants by them.
  std::vector<nlohmann::json> samples;
};

struct Task {
  std::string name;
  std::vector<std::string> aliases;  // Other names.
  std::string summary;
  std::vector<OptionInfo> options;
  std::vector<std::string> metrics;  // The main one first.
  bool needs_data = false;
  absl::StatusOr<TaskResult> (*run)(TaskContext& context) = nullptr;
  std::shared_ptr<const TaskRow> row;  // Of a task that is data (task_row.h), else null.
};

// Sorted by name.
absl::Span<const Task* const> Tasks();
// By name or alias; NotFound lists the names there are.
absl::StatusOr<const Task*> FindTask(absl::string_view name);

// One a file.
const Task& PerplexityTask();
const Task& DivergenceTask();
const Task& SanityTask();
const Task& WikitextTask();

// Fingerprint of everything that decides a task's numbers: task, options, limit, data, model,
// tokenizer, dtype, device and engine.
std::string TaskFingerprint(const TaskContext& context, absl::string_view data_digest);

// `value` for JSON: null where it is not finite.
nlohmann::json FiniteOrNull(double value);
// The reverse: NaN for null.
double NumberOrNan(const nlohmann::json& json);

}  // namespace quantd::engine
