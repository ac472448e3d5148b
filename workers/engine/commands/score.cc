// quant-engine score --task NAME=DATA --predictions FILE: predictions made elsewhere through the
// same code that scores a model's answers. No model is loaded.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/evaluation/documents.h"
#include "workers/engine/evaluation/own_tasks.h"
#include "workers/engine/evaluation/row_task.h"

namespace quantd::engine {
namespace {

constexpr int64_t kFileBytesMax = int64_t{1} << 30;

struct ScoreFlags {
  std::string task, predictions, tasks_path, samples;
  bool json = false;
};

absl::StatusOr<TaskResult> ScoreFile(const ScoreFlags& flags) {
  const size_t equals = flags.task.find('=');
  std::vector<TaskSpec> specs(1);
  specs[0].name = flags.task.substr(0, equals);
  if (equals != std::string::npos) specs[0].data = flags.task.substr(equals + 1);
  if (!flags.tasks_path.empty()) {
    QD_RETURN_IF_ERROR(TakeDefinitions(flags.tasks_path, &specs));
  } else if (specs[0].name == kOwnTask) {
    return absl::InvalidArgumentError("a task of your own is named with --tasks-path");
  }
  if (specs[0].data.empty()) {
    return absl::InvalidArgumentError("--task needs its data: NAME=DATA");
  }
  std::shared_ptr<const TaskRow> row;
  if (specs[0].options.contains("definition")) {
    QD_ASSIGN_OR_RETURN(
        TaskRow own, ParseTaskRow(specs[0].options["definition"].get<std::string>(), "definition"));
    row = std::make_shared<TaskRow>(std::move(own));
  } else {
    QD_ASSIGN_OR_RETURN(const Task* task, FindTask(specs[0].name));
    row = task->row;
  }
  if (row == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("task ", specs[0].name, " measures a model, not predictions"));
  }
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(specs[0].data, kFileBytesMax));
  QD_ASSIGN_OR_RETURN(const std::vector<nlohmann::json> documents,
                      ParseTaskDocuments(row->documents, text, specs[0].data));
  QD_ASSIGN_OR_RETURN(const std::string predictions, ReadFile(flags.predictions, kFileBytesMax));
  QD_ASSIGN_OR_RETURN(TaskResult result,
                      ScorePredictions(*row, flags.task.substr(0, equals), documents, predictions),
                      flags.predictions);
  return result;
}

int Score(const ScoreFlags& flags) {
  const absl::StatusOr<TaskResult> result = ScoreFile(flags);
  if (!result.ok()) return PrintError(result.status());
  if (!flags.samples.empty()) {
    std::string lines;
    for (const nlohmann::json& sample : result->samples) {
      absl::StrAppend(&lines, sample.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                      "\n");
    }
    const absl::Status written = WriteFileAtomic(flags.samples, lines);
    if (!written.ok()) return PrintError(written);
  }
  if (flags.json) {
    absl::PrintF("%s\n", nlohmann::json{{"metrics", result->metrics}}.dump(2));
    return 0;
  }
  for (const auto& [name, metric] : result->metrics.items()) {
    absl::PrintF("%-36s %.6g  (%d samples)\n", name, NumberOrNan(metric["value"]),
                 metric["samples"].get<int>());
  }
  const int missing = result->metrics.begin()->value("missing", 0);
  if (missing > 0) absl::PrintF("%d documents have no prediction and are left out\n", missing);
  return 0;
}

}  // namespace

void AddScore(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("score", "Score predictions made elsewhere");
  auto flags = std::make_shared<ScoreFlags>();
  command->add_option("-t,--task", flags->task, "NAME=DATA")->required();
  command
      ->add_option("--predictions", flags->predictions,
                   "JSON object {id: text}, or objects with \"id\" and \"prediction\"")
      ->required();
  command->add_option("--tasks-path", flags->tasks_path,
                      "A YAML file, or a folder of them, with tasks of your own");
  command->add_option("--samples", flags->samples, "Write every sample's scores to this file");
  command->add_flag("--json", flags->json, "Print the result as JSON");
  command->callback([flags, exit_code] { *exit_code = Score(*flags); });
}

}  // namespace quantd::engine
