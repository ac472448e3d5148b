// quantctl evaluate: an EvaluateSpec from flags, from a file, or from a file with flags over it.
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/commands/spec_flags.h"
#include "client/submit.h"

namespace quantd {
namespace {

struct Flags {
  std::string file, model;
  int batch_size = 0;
  TaskFlags tasks;
  RuntimeFlags runtime;
  SubmitFlags submit;
};

absl::Status Fill(Flags* flags, v1::JobSpec* spec) {
  InputOptions here = flags->submit.inputs;
  if (!flags->file.empty()) {
    QD_RETURN_IF_ERROR(ReadSpec(flags->file, spec, &flags->submit.inputs));
    if (!spec->has_evaluate()) {
      return absl::InvalidArgumentError(flags->file +
                                        ": holds no `evaluate:`; quantctl submit takes any job");
    }
  }
  v1::EvaluateSpec* evaluate = spec->mutable_evaluate();
  if (!flags->model.empty()) {
    QD_ASSIGN_OR_RETURN(*evaluate->mutable_model(), ResolveModel(flags->model, here));
  }
  if (flags->batch_size > 0) evaluate->set_batch_size(flags->batch_size);
  QD_RETURN_IF_ERROR(ApplyTasks(flags->tasks, evaluate->mutable_tasks()));
  if (!flags->tasks.tasks.empty()) {
    for (v1::TaskSpec& task : *evaluate->mutable_tasks()) {
      QD_ASSIGN_OR_RETURN(*task.mutable_data(), ResolveData(task.data(), here), "task ",
                          task.name());
    }
  }
  if (evaluate->model().empty()) return absl::InvalidArgumentError("no MODEL is given");
  if (evaluate->tasks().empty()) {
    return absl::InvalidArgumentError("no --task is given; quantctl methods --tasks lists them");
  }
  return ApplyRuntime(flags->runtime, spec);
}

}  // namespace

Action DeclareEvaluate(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("MODEL", flags->model, "Folder, org/name[@revision], jobs/ID or artifacts/SHA");
  app->add_option("-f,--file", flags->file, "JobSpec in YAML; flags win over it")
      ->type_name("FILE");
  AddTaskFlags(app, &flags->tasks);
  app->add_option("--batch-size", flags->batch_size, "Sequences a forward pass")
      ->check(CLI::PositiveNumber);
  AddRuntimeFlags(app, &flags->runtime);
  AddSubmitFlags(app, &flags->submit);
  return [flags](Session& session) {
    v1::JobSpec spec;
    const absl::Status status = Fill(flags.get(), &spec);
    return status.ok() ? RunJob(session, spec, flags->submit) : session.Fail(status);
  };
}

}  // namespace quantd
