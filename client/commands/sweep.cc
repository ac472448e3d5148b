// quantctl sweep: a SweepSpec from a file, or the cross product of methods, bits and group sizes.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/commands/spec_flags.h"
#include "client/submit.h"

namespace quantd {
namespace {

struct Flags {
  std::string target, format;
  std::vector<std::string> methods, options;
  std::vector<int> bits, group_sizes;
  bool no_benchmark = false;
  int max_parallel = 0;
  CalibrationFlags calibration;
  TaskFlags tasks;
  RuntimeFlags runtime;
  SubmitFlags submit;
};

// One element as a number, several as a list: one variant each.
void SetNumbers(const std::string& name, const std::vector<int>& values,
                google::protobuf::Struct* options) {
  if (values.size() == 1) SetNumber(name, values[0], options);
  if (values.size() < 2) return;
  auto* list = (*options->mutable_fields())[name].mutable_list_value();
  for (const int value : values) list->add_values()->set_number_value(value);
}

absl::Status Fill(Flags* flags, v1::SweepSpec* spec) {
  const bool file = absl::EndsWith(flags->target, ".yaml") || absl::EndsWith(flags->target, ".yml");
  if (file) {
    if (!flags->methods.empty() || !flags->options.empty() || !flags->bits.empty() ||
        !flags->group_sizes.empty() || !flags->format.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--method, --option, --bits, --group-size and --format go with a MODEL; the variants of ",
          flags->target, " are in the file"));
    }
    QD_RETURN_IF_ERROR(ReadSpec(flags->target, spec, &flags->submit.inputs));
  } else {
    if (flags->methods.empty()) {
      return absl::InvalidArgumentError("no --method is given; quantctl methods lists them");
    }
    spec->add_models(flags->target);
    if (!flags->no_benchmark) spec->mutable_benchmark();
  }
  for (const std::string& method : flags->methods) {
    v1::VariantSpec* variant = spec->add_variants();
    variant->set_method(method);
    variant->set_format(flags->format);
    SetNumbers("bits", flags->bits, variant->mutable_options());
    SetNumbers("group_size", flags->group_sizes, variant->mutable_options());
    for (const std::string& option : flags->options) {
      QD_RETURN_IF_ERROR(ApplyOption(option, variant->mutable_options()));
    }
  }
  if (flags->no_benchmark) spec->clear_benchmark();
  InputOptions here = flags->submit.inputs;
  here.base_folder = ".";
  QD_ASSIGN_OR_RETURN(flags->calibration.source, ResolveData(flags->calibration.source, here));
  ApplyCalibration(flags->calibration, spec);
  QD_RETURN_IF_ERROR(ApplyTasks(flags->tasks, spec->mutable_tasks()));
  if (!flags->tasks.tasks.empty()) {
    for (v1::TaskSpec& task : *spec->mutable_tasks()) {
      QD_ASSIGN_OR_RETURN(*task.mutable_data(), ResolveData(task.data(), here), "task ",
                          task.name());
    }
  }
  if (flags->max_parallel > 0) spec->set_max_parallel(flags->max_parallel);
  return ApplyRuntime(flags->runtime, spec);
}

}  // namespace

Action DeclareSweep(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("TARGET", flags->target, "A SweepSpec (FILE.yaml), or a model")
      ->required()
      ->type_name("FILE.yaml|MODEL");
  app->add_option("--method", flags->methods, "Method; may be repeated")->allow_extra_args(false);
  app->add_option("--bits", flags->bits, "As 8,4,3: one variant each")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--group-size", flags->group_sizes, "As 128,64: one variant each")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--option", flags->options, "Option of every method; a list makes variants")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  app->add_option("--format", flags->format, "Output format");
  app->add_flag("--no-benchmark", flags->no_benchmark, "Do not measure speed");
  app->add_option("--max-parallel", flags->max_parallel, "Variants at work at a time")
      ->check(CLI::PositiveNumber);
  AddTaskFlags(app, &flags->tasks);
  AddCalibrationFlags(app, &flags->calibration);
  AddRuntimeFlags(app, &flags->runtime);
  AddSubmitFlags(app, &flags->submit);
  return [flags](Session& session) {
    v1::SweepSpec spec;
    const absl::Status status = Fill(flags.get(), &spec);
    return status.ok() ? RunSweep(session, spec, flags->submit) : session.Fail(status);
  };
}

}  // namespace quantd
