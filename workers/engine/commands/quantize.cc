// quant-engine quantize MODEL --method M --option k=v -o DIR
#include <memory>

#include "workers/engine/commands/commands.h"
#include "workers/engine/commands/local_job.h"
#include "workers/engine/commands/run_job.h"

namespace quantd::engine {
namespace {

struct QuantizeFlags {
  LocalFlags local;
  QuantizeSpec spec;
  std::vector<std::string> options;
  std::vector<std::string> skip;
};

int Quantize(QuantizeFlags& flags) {
  if (flags.local.output.empty()) {
    return PrintUsageError(absl::InvalidArgumentError("-o FOLDER is needed for the new model"));
  }
  if (flags.local.spec_file.empty() && (flags.spec.model.empty() || flags.spec.method.empty())) {
    return PrintUsageError(
        absl::InvalidArgumentError("a MODEL and --method are needed, or --spec"));
  }
  absl::StatusOr<nlohmann::json> options = ParseOptionArguments(flags.options);
  if (!options.ok()) return PrintUsageError(options.status());
  flags.spec.options = *std::move(options);
  for (const std::string& pattern : flags.skip) {
    flags.spec.overrides.push_back({.pattern = pattern, .skip = true});
  }
  return RunLocalJob(flags.local, {.kind = flags.spec});
}

}  // namespace

void AddQuantize(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("quantize", "Write a quantized copy of a model");
  auto flags = std::make_shared<QuantizeFlags>();
  command->add_option("model", flags->spec.model, "Folder, or Hub name");
  command->add_option("-m,--method", flags->spec.method, "As `capabilities` lists them");
  command->add_option("--option", flags->options, "A method's option, NAME=VALUE; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--format", flags->spec.format, "Output format; default: the method's first");
  command->add_option("--calibration", flags->spec.calibration.source, "A .txt or .jsonl file");
  command->add_option("--text-field", flags->spec.calibration.text_field,
                      "Field of a .jsonl object that holds the text");
  command->add_option("--sequences", flags->spec.calibration.sequences, "Calibration sequences");
  command->add_option("--sequence-length", flags->spec.calibration.sequence_length,
                      "Tokens of a calibration sequence");
  command->add_option("--batch-size", flags->spec.calibration.batch_size,
                      "Calibration sequences a forward pass");
  command->add_option("--skip", flags->skip, "Regular expression of modules to leave in 16 bits")
      ->allow_extra_args(false);
  command->add_flag("--fallback", flags->spec.fallback,
                    "Where the method does not know the architecture, use the one that the error "
                    "would name");
  command->add_option("--shard-bytes", flags->spec.shard_bytes, "Largest output file")
      ->transform(CLI::AsSizeValue(false));
  AddLocalFlags(*command, &flags->local);
  command->callback([flags, exit_code] { *exit_code = Quantize(*flags); });
}

}  // namespace quantd::engine
