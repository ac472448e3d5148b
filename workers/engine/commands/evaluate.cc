// quant-engine evaluate MODEL --task NAME[=DATA] --option k=v
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/evaluation/own_tasks.h"

namespace quantd::engine {
namespace {

struct EvaluateFlags {
  LocalFlags local;
  EvaluateSpec spec;
  std::vector<std::string> tasks;
  std::vector<std::string> options;
  std::string tasks_path, few_shot_data;
  int limit = 0;
};

// "task.name=value" belongs to one task, "name=value" to the only one.
absl::Status AddOption(const std::string& argument, std::vector<TaskSpec>* tasks) {
  const std::string name = argument.substr(0, argument.find('='));
  const size_t dot = name.find('.');
  const std::string task_name = dot == std::string::npos ? "" : name.substr(0, dot);
  QD_ASSIGN_OR_RETURN(
      const nlohmann::json option,
      ParseOptionArguments({dot == std::string::npos ? argument : argument.substr(dot + 1)}));
  bool found = false;
  for (TaskSpec& task : *tasks) {
    if (dot != std::string::npos ? task.name != task_name : tasks->size() > 1) continue;
    task.options.update(option);
    found = true;
  }
  if (found) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "option \"", argument, "\": with several tasks write TASK.NAME=VALUE of one of them"));
}

int Evaluate(EvaluateFlags& flags) {
  if (flags.local.spec_file.empty() && (flags.spec.model.empty() || flags.tasks.empty())) {
    return PrintUsageError(
        absl::InvalidArgumentError("a MODEL and at least one --task are needed, or --spec"));
  }
  for (const std::string& task : flags.tasks) {
    const size_t equals = task.find('=');
    flags.spec.tasks.push_back({.name = task.substr(0, equals),
                                .data = equals == std::string::npos ? "" : task.substr(equals + 1),
                                .limit = flags.limit});
    if (!flags.few_shot_data.empty()) {
      flags.spec.tasks.back().options["few_shot_data"] = flags.few_shot_data;
    }
  }
  for (const std::string& option : flags.options) {
    if (absl::Status status = AddOption(option, &flags.spec.tasks); !status.ok()) {
      return PrintUsageError(status);
    }
  }
  if (!flags.tasks_path.empty()) {
    if (absl::Status status = TakeDefinitions(flags.tasks_path, &flags.spec.tasks); !status.ok()) {
      return PrintUsageError(status);
    }
  }
  return RunLocalJob(flags.local, {.kind = flags.spec});
}

}  // namespace

void AddEvaluate(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("evaluate", "Measure a model's quality");
  auto flags = std::make_shared<EvaluateFlags>();
  command->add_option("model", flags->spec.model, "Folder, or Hub name");
  command->add_option("-t,--task", flags->tasks, "NAME or NAME=DATA; may be repeated")
      ->allow_extra_args(false);
  command
      ->add_option("--option", flags->options,
                   "A task's option, NAME=VALUE or TASK.NAME=VALUE; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--limit", flags->limit, "Only the first so many samples of each task");
  command->add_option("--batch-size", flags->spec.batch_size,
                      "Sequences a forward pass; 0: chosen");
  command->add_option("--tasks-path", flags->tasks_path,
                      "A YAML file, or a folder of them, with tasks of your own");
  command->add_option("--few-shot-data", flags->few_shot_data,
                      "File that few-shot examples are drawn from");
  AddLocalFlags(*command, &flags->local);
  command->callback([flags, exit_code] { *exit_code = Evaluate(*flags); });
}

}  // namespace quantd::engine
