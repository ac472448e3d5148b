// From a spec to its end: inputs resolved, submitted once however often it is sent, watched, and
// the outcome told. Shared by every command that submits.
#pragma once

#include <string>
#include <vector>

#include "CLI/App.hpp"
#include "client/inputs.h"
#include "client/session.h"
#include "proto/quantd/v1/spec.pb.h"

namespace quantd {

struct SubmitFlags {
  bool detach = false;
  bool dry_run = false;
  int priority = 0;
  bool fresh = false;
  CLI::Option* priority_option = nullptr;
  std::vector<std::string> labels;
  std::vector<std::string> secrets;
  std::string request_id;
  std::string display_name;
  std::string output;
  InputOptions inputs;
};

// --detach, --dry-run, --priority, --fresh, --label, --secret, --request-id, --name, --output,
// --upload,
// --remote-paths.
void AddSubmitFlags(CLI::App* app, SubmitFlags* flags);

// Reads a YAML file into `spec`; relative paths inside it will start at its folder.
absl::Status ReadSpec(const std::string& path, google::protobuf::Message* spec,
                      InputOptions* inputs);

// Submit, follow, report. Exit codes.
int RunJob(Session& session, v1::JobSpec spec, const SubmitFlags& flags);
int RunSweep(Session& session, v1::SweepSpec spec, const SubmitFlags& flags);

// Puts what did not succeed in a sweep back into the queue, and watches it; of `flags` only detach
// and output matter. By specification: the newest sweep that the scheduler would plan alike,
// NotFound where there is none.
int RetrySweep(Session& session, const std::string& name, const SubmitFlags& flags);
int RetrySweep(Session& session, v1::SweepSpec spec, const SubmitFlags& flags);

// Follows what is there already, to the same end.
struct WatchOptions {
  int64_t after_sequence = 0;
  std::string output;
};
int WatchToTheEnd(Session& session, const v1::Job& job, const WatchOptions& options);
int WatchToTheEnd(Session& session, const v1::Sweep& sweep, const WatchOptions& options);

}  // namespace quantd
