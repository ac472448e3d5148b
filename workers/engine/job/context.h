// What a job is given to work with: its spec, what the spec's references stand for, folders, a
// place for events and the request to stop.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/job/cancel.h"
#include "workers/engine/job/events.h"
#include "workers/engine/job/spec.h"

namespace quantd::engine {

// What "jobs/..." or "artifacts/..." stands for; everything but `path` only for jobs.
struct JobInput {
  std::string path;        // The folder (or file) on this machine; empty: the job left no files.
  nlohmann::json result;   // null: the job has none.
  nlohmann::json spec;     // The job's JobSpec in proto3-JSON form.
  std::string state;       // "JOB_STATE_SUCCEEDED", ...
  nlohmann::json failure;  // null, or the Failure message.
};

// {"jobs/abc": {"path", "result", "spec", "state", "failure"}, "artifacts/<sha>": {"path"}}.
absl::StatusOr<std::map<std::string, JobInput>> ParseInputs(absl::string_view json);

struct JobContext {
  JobSpec spec;
  std::map<std::string, JobInput> inputs;
  std::string output_dir;  // Exists; what is written here and announced is the job's output.
  std::string work_dir;    // Exists; may hold what an earlier attempt left. Resume from it.
  std::string cache_dir;   // Exists; shared by jobs: the Hub cache.
  EventSink& events;
  const CancelToken& cancel;

  // Brings a Hub repository ("org/name", "org/name@rev") to this machine and returns its folder.
  // Set by the program; unset: Hub names are refused.
  std::function<absl::StatusOr<std::string>(JobContext&, const std::string& reference)> fetch_model;
  // The same for a file of a data set (base/hub_data.h): returns its path.
  std::function<absl::StatusOr<std::string>(JobContext&, const std::string& reference)> fetch_data =
      {};

  // A local folder for a spec's model reference: an input, a folder here, or a Hub repository.
  // NotFound says what was looked for and where.
  absl::StatusOr<std::string> ResolveModel(const std::string& reference);
  // A local file for a data reference: an input, a path, or a file of the Hub's data sets. An
  // artifact of one file stands for that file.
  absl::StatusOr<std::string> ResolveData(const std::string& reference);
};

}  // namespace quantd::engine
