// quant-engine benchmark MODEL --batch-size 1 --prompt 128 --decode 32
#include <memory>

#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"

namespace quantd::engine {

void AddBenchmark(CLI::App& app, int* exit_code) {
  struct Flags {
    LocalFlags local;
    BenchmarkSpec spec;
  };
  CLI::App* command = app.add_subcommand("benchmark", "Measure a model's speed and memory");
  auto flags = std::make_shared<Flags>();
  command->add_option("model", flags->spec.model, "Folder, or Hub name");
  command->add_option("--baseline", flags->spec.baseline, "Measure this model in turns with it");
  command
      ->add_option("--batch-size", flags->spec.batch_sizes, "Sequences at a time; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--prompt", flags->spec.prompt_lengths, "Prompt tokens; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--decode", flags->spec.decode_tokens, "New tokens of each sequence");
  command->add_option("--repetitions", flags->spec.repetitions, "Measured runs of each setting");
  command->add_option("--warmup", flags->spec.warmup, "Runs before them that do not count");
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
