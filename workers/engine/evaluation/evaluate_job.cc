// Checks everything first, then runs the tasks in order; a task's result is announced when it ends.
#include "workers/engine/evaluation/evaluate_job.h"

#include <memory>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/loaded_model.h"
#include "workers/engine/evaluation/row_task.h"
#include "workers/engine/evaluation/task.h"

namespace quantd::engine {
namespace {

struct PlannedTask {
  std::shared_ptr<const Task> own;  // Of a task that the spec defines; else null.
  const Task* task = nullptr;
  const TaskSpec* spec = nullptr;
  std::string key;
  std::string data_path, few_shot_path;
  nlohmann::json options;
};

// The name as the spec has it; a second task of the same name gets its data's name behind it.
std::string UniqueKey(const PlannedTask& planned, std::set<std::string>* used) {
  const TaskSpec& spec = *planned.spec;
  const std::string& name = planned.own != nullptr ? planned.own->name : spec.name;
  std::string key = name;
  if (!used->insert(key).second) {
    std::string data = spec.data.substr(spec.data.rfind('/') + 1);
    for (char& c : data) {
      if (!absl::ascii_isalnum(static_cast<unsigned char>(c))) c = '_';
    }
    key = absl::StrCat(name, "_", data);
    for (int i = 2; !used->insert(key).second; ++i) key = absl::StrCat(name, "_", data, "_", i);
  }
  return key;
}

// A task by its name; of a user's own the one that its definition describes, and `options` without
// the definition.
absl::Status ChooseTask(const TaskSpec& spec, nlohmann::json* options, PlannedTask* planned) {
  QD_ASSIGN_OR_RETURN(planned->task, FindTask(spec.name));
  if (spec.name != kOwnTask) return absl::OkStatus();
  const nlohmann::json text =
      options->is_object() ? options->value("definition", nlohmann::json()) : nlohmann::json();
  if (!text.is_string()) {
    return absl::InvalidArgumentError("option \"definition\" must be the task's YAML text");
  }
  options->erase("definition");
  QD_ASSIGN_OR_RETURN(TaskRow row, ParseTaskRow(text.get<std::string>(), "definition"));
  planned->own = std::make_shared<Task>(MakeRowTask(std::make_shared<TaskRow>(std::move(row))));
  planned->task = planned->own.get();
  return absl::OkStatus();
}

absl::StatusOr<PlannedTask> PlanTask(JobContext& context, const TaskSpec& spec) {
  PlannedTask planned;
  planned.spec = &spec;
  nlohmann::json options = spec.options;
  QD_RETURN_IF_ERROR(ChooseTask(spec, &options, &planned));
  QD_ASSIGN_OR_RETURN(planned.options, ResolveOptionValues(absl::StrCat("task ", spec.name),
                                                           planned.task->options, options));
  if (spec.limit < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("limit is ", spec.limit, "; 0 or more is possible"));
  }
  const TaskRow* row = planned.task->row.get();
  const std::string data = spec.data.empty() && row != nullptr ? row->data : spec.data;
  if (planned.task->needs_data && data.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("data is empty: task ", spec.name, " needs a data file"));
  }
  if (!data.empty()) {
    QD_ASSIGN_OR_RETURN(planned.data_path, context.ResolveData(data));
  }
  if (const std::string examples = planned.options.value("few_shot_data", ""); !examples.empty()) {
    QD_ASSIGN_OR_RETURN(planned.few_shot_path, context.ResolveData(examples),
                        "option few_shot_data");
  }
  return planned;
}

absl::StatusOr<std::vector<PlannedTask>> PlanTasks(JobContext& context, const EvaluateSpec& spec) {
  if (spec.tasks.empty()) {
    return absl::InvalidArgumentError("evaluate.tasks is empty: name at least one task");
  }
  if (spec.batch_size < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("evaluate.batchSize is ", spec.batch_size, "; 0 or more is possible"));
  }
  std::vector<PlannedTask> plan;
  std::set<std::string> used;
  for (size_t i = 0; i < spec.tasks.size(); ++i) {
    QD_ASSIGN_OR_RETURN(PlannedTask planned, PlanTask(context, spec.tasks[i]), "evaluate.tasks[", i,
                        "]");
    planned.key = UniqueKey(planned, &used);
    plan.push_back(std::move(planned));
  }
  return plan;
}

absl::Status WriteSamples(JobContext& context, const std::string& key,
                          const std::vector<nlohmann::json>& samples) {
  std::string lines;
  for (const nlohmann::json& sample : samples) {
    absl::StrAppend(&lines, sample.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                    "\n");
  }
  const std::string name = absl::StrCat("samples_", key, ".jsonl");
  QD_RETURN_IF_ERROR(WriteFileAtomic(absl::StrCat(context.output_dir, "/", name), lines));
  context.events.Artifact(name, "result");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<nlohmann::json> RunEvaluate(JobContext& context, const EvaluateSpec& spec) {
  QD_ASSIGN_OR_RETURN(const std::vector<PlannedTask> plan, PlanTasks(context, spec));
  QD_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(context, spec.model));
  nlohmann::json metrics = nlohmann::json::object();
  for (const PlannedTask& planned : plan) {
    const absl::Duration start = Clock::Real().Monotonic();
    TaskContext task{.job = context,
                     .model = model,
                     .key = planned.key,
                     .data_path = planned.data_path,
                     .few_shot_path = planned.few_shot_path,
                     .limit = planned.spec->limit,
                     .options = planned.options,
                     .batch_size = spec.batch_size,
                     .row = planned.task->row.get()};
    QD_ASSIGN_OR_RETURN(TaskResult result, planned.task->run(task), "task ", planned.key);
    const double seconds = absl::ToDoubleSeconds(Clock::Real().Monotonic() - start);
    for (auto& [name, metric] : result.metrics.items()) {
      metric["seconds"] = seconds;
      context.events.Metric(name, NumberOrNan(metric["value"]));
      metrics[name] = metric;
    }
    QD_RETURN_IF_ERROR(WriteSamples(context, planned.key, result.samples));
  }
  nlohmann::json result = MeasuredOn(context, model);
  result["metrics"] = std::move(metrics);
  result["modelDigest"] = model.digest;
  result["tokenizerDigest"] = model.tokenizer->digest();
  result["sizeBytes"] = model.size_bytes;
  result["loadSeconds"] = model.load_seconds;
  return result;
}

}  // namespace quantd::engine
