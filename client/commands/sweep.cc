// quantctl sweep: a SweepSpec from a file, or from methods and named experiments; or what failed in
// a sweep that was submitted before, again.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/commands/spec_flags.h"
#include "client/commands/variant_flags.h"
#include "client/submit.h"

namespace quantd {
namespace {

struct Flags {
  std::string target;
  bool no_benchmark = false, retry_failed = false;
  int max_parallel = 0;
  VariantFlags variants;
  CalibrationFlags calibration;
  TaskFlags tasks;
  RuntimeFlags runtime;
  SubmitFlags submit;
};

absl::Status FillModel(Session& session, const Flags& flags, v1::SweepSpec* spec) {
  const VariantFlags& variants = flags.variants;
  if (variants.methods.empty() && variants.experiments.empty() && !variants.quick) {
    return absl::InvalidArgumentError(
        "no --quick, --method or --experiment is given; quantctl methods lists the methods, "
        "quantctl methods --experiments the experiments");
  }
  if (variants.methods.empty() && (!variants.bits.empty() || !variants.group_sizes.empty() ||
                                   !variants.options.empty() || !variants.format.empty())) {
    return absl::InvalidArgumentError(
        "--bits, --group-size, --option and --format go with --method; an experiment has its own");
  }
  spec->add_models(flags.target);
  if (!flags.no_benchmark) spec->mutable_benchmark();
  v1::Catalog catalog;
  if (!variants.methods.empty()) {
    QD_ASSIGN_OR_RETURN(catalog, session.scheduler().Call(v1::GetCatalogRequest()));
  }
  std::vector<std::string> left_out;
  QD_RETURN_IF_ERROR(ApplyVariants(variants, catalog, spec->mutable_variants(), &left_out));
  if (!left_out.empty()) {
    session.err() << "left out, for they can do none of these bits and group sizes: "
                  << absl::StrJoin(left_out, ", ") << "\n";
  }
  return absl::OkStatus();
}

absl::Status Fill(Session& session, Flags* flags, v1::SweepSpec* spec) {
  const bool file = absl::EndsWith(flags->target, ".yaml") || absl::EndsWith(flags->target, ".yml");
  if (file) {
    if (flags->variants.Given()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--quick, --experiment, --method, --option, --bits, --group-size and --format go with a "
          "MODEL; the variants of ",
          flags->target, " are in the file"));
    }
    QD_RETURN_IF_ERROR(ReadSpec(flags->target, spec, &flags->submit.inputs));
  } else {
    QD_RETURN_IF_ERROR(FillModel(session, *flags, spec));
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
  // The one task that has data of its own: whether a variant still writes sentences.
  if (!file && spec->tasks().empty()) spec->add_tasks()->set_name("sanity");
  if (flags->max_parallel > 0) spec->set_max_parallel(flags->max_parallel);
  return ApplyRuntime(flags->runtime, spec);
}

int Run(Session& session, Flags* flags) {
  if (flags->retry_failed && absl::StrContains(flags->target, "sweeps/")) {
    return RetrySweep(session, flags->target, flags->submit);
  }
  v1::SweepSpec spec;
  const absl::Status status = Fill(session, flags, &spec);
  if (!status.ok()) return session.Fail(status);
  return flags->retry_failed ? RetrySweep(session, spec, flags->submit)
                             : RunSweep(session, spec, flags->submit);
}

}  // namespace

Action DeclareSweep(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("TARGET", flags->target, "A SweepSpec (FILE.yaml), or a model")
      ->required()
      ->type_name("FILE.yaml|MODEL");
  AddVariantFlags(app, &flags->variants);
  app->add_flag("--no-benchmark", flags->no_benchmark, "Do not measure speed");
  app->add_option("--max-parallel", flags->max_parallel, "Jobs at work at a time")
      ->check(CLI::PositiveNumber);
  app->add_flag("--retry-failed", flags->retry_failed,
                "Submit nothing: run again what failed in the newest sweep of the same "
                "specification, or in the one that TARGET names (sweeps/ID)");
  AddTaskFlags(app, &flags->tasks);
  AddCalibrationFlags(app, &flags->calibration);
  AddRuntimeFlags(app, &flags->runtime);
  AddSubmitFlags(app, &flags->submit);
  return [flags](Session& session) { return Run(session, flags.get()); };
}

}  // namespace quantd
