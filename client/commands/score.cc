// quantctl score: predictions made elsewhere, scored on this machine by the engine's own code.
#include "client/commands/commands.h"
#include "client/engine_tool.h"

namespace quantd {
namespace {

struct Flags {
  std::string task, predictions, tasks_path, samples;
};

}  // namespace

Action DeclareScore(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("--task", flags->task, "Task with its data file")
      ->required()
      ->type_name("NAME=DATA");
  app->add_option("--predictions", flags->predictions,
                  "JSON object {id: text}, or objects with \"id\" and \"prediction\"")
      ->required()
      ->type_name("FILE");
  app->add_option("--tasks-path", flags->tasks_path, "YAML file or folder with tasks of your own")
      ->type_name("PATH");
  app->add_option("--samples", flags->samples, "Write every sample's scores to this file")
      ->type_name("FILE");
  return [flags](Session& session) {
    session.out().flush();
    std::vector<std::string> arguments = {"score", "--task", flags->task, "--predictions",
                                          flags->predictions};
    if (!flags->tasks_path.empty()) {
      arguments.insert(arguments.end(), {"--tasks-path", flags->tasks_path});
    }
    if (!flags->samples.empty()) arguments.insert(arguments.end(), {"--samples", flags->samples});
    if (session.json()) arguments.push_back("--json");
    const absl::StatusOr<EngineRun> run = RunEngine(arguments, /*capture=*/false);
    return run.ok() ? run->exit_code : session.Fail(run.status());
  };
}

}  // namespace quantd
