// What a user calls a model or a data file, made into what a worker can find: a local path becomes
// absolute (or is uploaded, where the workers may not see this disk), a Hub name stays, a typo is
// refused here instead of failing on a worker later.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/session.h"
#include "proto/quantd/v1/spec.pb.h"

namespace quantd {

struct InputOptions {
  // Relative paths start here: the folder of the YAML file, or the working folder.
  std::string base_folder = ".";
  // Paths are the workers' own; nothing is checked or uploaded.
  bool remote_paths = false;
  // Upload data files even to a scheduler on this machine.
  bool upload = false;
};

// A path, Hub name, "jobs/..." or "artifacts/...". NotFound, with what to write instead, for a path
// that is not there.
absl::StatusOr<std::string> ResolveModel(const std::string& text, const InputOptions& options);

// A path, a file of the Hub's data sets (base/hub_data.h) or "artifacts/...". NotFound when the
// path is not there. Does not upload.
absl::StatusOr<std::string> ResolveData(const std::string& text, const InputOptions& options);

// Resolves every model and data file that a spec names, in place, and uploads data files where they
// must be.
class Inputs {
 public:
  Inputs(Session* session, InputOptions options) : session_(session), options_(options) {}
  absl::Status Resolve(v1::JobSpec* spec);
  absl::Status Resolve(v1::SweepSpec* spec);

 private:
  absl::Status Model(std::string* model);
  absl::Status Data(std::string* data);
  absl::Status Tasks(google::protobuf::RepeatedPtrField<v1::TaskSpec>* tasks);

  Session* session_;
  InputOptions options_;
};

}  // namespace quantd
