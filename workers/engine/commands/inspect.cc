// quant-engine inspect PATH: what a model folder holds, before a long job is started on it.
#include "workers/engine/models/inspect.h"

#include <memory>

#include "absl/strings/str_format.h"
#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"

namespace quantd::engine {
namespace {

int Inspect(const std::string& path, bool json) {
  absl::StatusOr<nlohmann::json> facts = InspectModel(path);
  if (!facts.ok()) return PrintError(facts.status());
  if (json) {
    absl::PrintF("%s\n", facts->dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return 0;
  }
  for (const auto& item : facts->items()) {
    const nlohmann::json& value = item.value();
    absl::PrintF("%-14s %s\n", item.key(),
                 value.is_string()
                     ? value.get<std::string>()
                     : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  return 0;
}

}  // namespace

void AddInspect(CLI::App& app, int* exit_code) {
  struct Flags {
    std::string path;
    bool json = false;
  };
  CLI::App* command = app.add_subcommand("inspect", "Show what a model folder holds");
  auto flags = std::make_shared<Flags>();
  command->add_option("path", flags->path, "Folder with config.json")->required();
  command->add_flag("--json", flags->json, "Print JSON");
  command->callback([flags, exit_code] { *exit_code = Inspect(flags->path, flags->json); });
}

}  // namespace quantd::engine
