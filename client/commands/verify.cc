// quantctl verify: a quantized checkpoint reloaded and checked.
#include "client/commands/commands.h"
#include "client/commands/spec_flags.h"
#include "client/submit.h"

namespace quantd {
namespace {

struct Flags {
  std::string model;
  RuntimeFlags runtime;
  SubmitFlags submit;
};

}  // namespace

Action DeclareVerify(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("MODEL", flags->model, "Folder, jobs/ID or artifacts/SHA")->required();
  AddRuntimeFlags(app, &flags->runtime);
  AddSubmitFlags(app, &flags->submit);
  return [flags](Session& session) {
    v1::JobSpec spec;
    spec.mutable_verify()->set_model(flags->model);
    const absl::Status status = ApplyRuntime(flags->runtime, &spec);
    return status.ok() ? RunJob(session, spec, flags->submit) : session.Fail(status);
  };
}

}  // namespace quantd
