// quantctl submit: any JobSpec from a file.
#include "client/submit.h"

#include "client/commands/commands.h"

namespace quantd {
namespace {

struct Flags {
  std::string file;
  SubmitFlags submit;
};

}  // namespace

Action DeclareSubmit(CLI::App* app) {
  const auto flags = std::make_shared<Flags>();
  app->add_option("FILE", flags->file, "JobSpec in YAML")->required()->type_name("FILE.yaml");
  AddSubmitFlags(app, &flags->submit);
  return [flags](Session& session) {
    v1::JobSpec spec;
    const absl::Status status = ReadSpec(flags->file, &spec, &flags->submit.inputs);
    return status.ok() ? RunJob(session, spec, flags->submit) : session.Fail(status);
  };
}

}  // namespace quantd
