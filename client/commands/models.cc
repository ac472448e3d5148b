// quantctl models: the engine's view of a model on this machine.
#include "client/commands/commands.h"
#include "client/engine_tool.h"

namespace quantd {

Action DeclareModelsInspect(CLI::App* app) {
  const auto path = std::make_shared<std::string>();
  app->add_option("PATH", *path, "Model folder")->required();
  return [path](Session& session) {
    session.out().flush();
    std::vector<std::string> arguments = {"inspect", *path};
    if (session.json()) arguments.push_back("--json");
    const absl::StatusOr<EngineRun> run = RunEngine(arguments, /*capture=*/false);
    return run.ok() ? run->exit_code : session.Fail(run.status());
  };
}

}  // namespace quantd
