// quant-engine verify MODEL
#include <memory>

#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"

namespace quantd::engine {

void AddVerify(CLI::App& app, int* exit_code) {
  struct Flags {
    LocalFlags local;
    VerifySpec spec;
  };
  CLI::App* command = app.add_subcommand("verify", "Check a quantized model that was written");
  auto flags = std::make_shared<Flags>();
  command->add_option("model", flags->spec.model, "Folder that a quantize job wrote");
  AddLocalFlags(*command, &flags->local);
  command->callback([flags, exit_code] {
    if (flags->local.spec_file.empty() && flags->spec.model.empty()) {
      *exit_code = PrintUsageError(absl::InvalidArgumentError("a MODEL is needed, or --spec"));
      return;
    }
    *exit_code = RunLocalJob(flags->local, {.kind = flags->spec});
  });
}

}  // namespace quantd::engine
