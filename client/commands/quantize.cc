// quantctl quantize: a QuantizeSpec from flags, from a file, or from a file with flags over it.
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/commands/spec_flags.h"
#include "client/guide_config.h"
#include "client/submit.h"

namespace quantd {
namespace {

struct Flags {
  std::string file, config, model, method, format;
  std::vector<std::string> options, overrides;
  int bits = 0;
  int group_size = 0;
  bool fallback = false;
  CLI::Option* group_size_option = nullptr;
  CalibrationFlags calibration;
  RuntimeFlags runtime;
  SubmitFlags submit;
};

// A file of the guide's keys in place of a JobSpec.
absl::Status FillFromConfig(Session& session, Flags* flags, v1::JobSpec* spec) {
  v1::GuideConfig config;
  QD_RETURN_IF_ERROR(ReadSpec(flags->config, &config, &flags->submit.inputs));
  QD_ASSIGN_OR_RETURN(GuidedJob job, MapGuideConfig(config), flags->config);
  for (const std::string& note : job.notes) {
    session.err() << "note: " << flags->config << ": " << note << "\n";
  }
  *spec->mutable_quantize() = std::move(job.spec);
  if (flags->submit.output.empty()) flags->submit.output = job.output;
  return absl::OkStatus();
}

absl::Status Fill(Session& session, Flags* flags, v1::JobSpec* spec) {
  if (!flags->config.empty()) QD_RETURN_IF_ERROR(FillFromConfig(session, flags, spec));
  if (!flags->file.empty()) {
    QD_RETURN_IF_ERROR(ReadSpec(flags->file, spec, &flags->submit.inputs));
    if (!spec->has_quantize()) {
      return absl::InvalidArgumentError(flags->file +
                                        ": holds no `quantize:`; quantctl submit takes any job");
    }
  }
  v1::QuantizeSpec* quantize = spec->mutable_quantize();
  if (!flags->model.empty()) {
    // Given here, so relative to here, even beside a file from elsewhere.
    InputOptions here = flags->submit.inputs;
    here.base_folder = ".";
    QD_ASSIGN_OR_RETURN(*quantize->mutable_model(), ResolveModel(flags->model, here));
  }
  if (!flags->method.empty() && flags->method != quantize->method()) {
    quantize->set_method(flags->method);
    quantize->clear_options();  // They were another method's.
  }
  if (flags->fallback) quantize->set_fallback(true);
  if (!flags->format.empty()) quantize->set_format(flags->format);
  if (flags->bits > 0) SetNumber("bits", flags->bits, quantize->mutable_options());
  if (flags->group_size_option->count() > 0) {
    SetNumber("group_size", flags->group_size, quantize->mutable_options());
  }
  for (const std::string& option : flags->options) {
    QD_RETURN_IF_ERROR(ApplyOption(option, quantize->mutable_options()));
  }
  for (const std::string& text : flags->overrides) {
    QD_RETURN_IF_ERROR(ApplyOverride(text, quantize->mutable_overrides()));
  }
  if (!flags->calibration.source.empty()) {
    InputOptions here = flags->submit.inputs;
    here.base_folder = ".";
    QD_ASSIGN_OR_RETURN(flags->calibration.source, ResolveData(flags->calibration.source, here));
  }
  ApplyCalibration(flags->calibration, quantize);
  if (quantize->model().empty()) return absl::InvalidArgumentError("no MODEL is given");
  if (quantize->method().empty()) {
    return absl::InvalidArgumentError("no --method is given; quantctl methods lists them");
  }
  return ApplyRuntime(flags->runtime, spec);
}

}  // namespace

Action DeclareQuantize(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("MODEL", flags->model, "Folder, org/name[@revision], jobs/ID or artifacts/SHA");
  CLI::Option* file =
      app->add_option("-f,--file", flags->file, "JobSpec in YAML; flags win over it")
          ->type_name("FILE");
  app->add_option(
         "--config", flags->config,
         "Configuration of the GGUF/AWQ guide (model.model_name, method, output_path, ...); "
         "flags win over it")
      ->type_name("FILE")
      ->excludes(file);
  app->add_option("--method", flags->method, "One of `quantctl methods`");
  app->add_option("--option", flags->options, "Method option; may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  app->add_option("--bits", flags->bits, "Short for --option bits=N")->check(CLI::PositiveNumber);
  flags->group_size_option =
      app->add_option("--group-size", flags->group_size, "Short for --option group_size=N");
  app->add_option("--format", flags->format, "Output format; `quantctl methods --formats`");
  app->add_option("--override", flags->overrides,
                  "Other options for matching modules; may be repeated")
      ->type_name("PATTERN:skip|k=v,...")
      ->allow_extra_args(false);
  app->add_flag(
      "--fallback", flags->fallback,
      "Where the method does not know the architecture, go on with the one that the error "
      "would name");
  AddCalibrationFlags(app, &flags->calibration);
  AddRuntimeFlags(app, &flags->runtime);
  AddSubmitFlags(app, &flags->submit);
  return [flags](Session& session) {
    v1::JobSpec spec;
    const absl::Status status = Fill(session, flags.get(), &spec);
    return status.ok() ? RunJob(session, spec, flags->submit) : session.Fail(status);
  };
}

}  // namespace quantd
