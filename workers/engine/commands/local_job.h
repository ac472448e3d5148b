// Jobs started by hand: flags that all of them have, folders, progress on the terminal, and the
// result as text or JSON. The job itself is the same as under a scheduler (run_job.h).
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"
#include "workers/engine/job/spec.h"

namespace quantd::engine {

struct LocalFlags {
  std::string spec_file;  // --spec: a JobSpec in JSON form, in place of the other flags.
  std::string output;     // -o
  std::string cache;      // --cache
  bool json = false;      // --json
  Runtime runtime;        // --device --dtype --threads --seed --device-memory --host-memory
};

// Adds the flags that every job command has. `flags` must live as long as `app`.
void AddLocalFlags(CLI::App& app, LocalFlags* flags);

// Runs the job and prints its result; returns the exit code. Where --output is missing a temporary
// folder takes the files and is removed. With --output, the folder OUTPUT.work keeps what a killed
// job has done: the same command goes on from there; OUTPUT/quantd_result.json holds the result for
// `compare` and `report`.
int RunLocalJob(const LocalFlags& flags, JobSpec spec, std::map<std::string, JobInput> inputs = {});

// {"bits": 4, ...} from "bits=4" arguments.
absl::StatusOr<nlohmann::json> ParseOptionArguments(const std::vector<std::string>& arguments);

// Prints "error: ..." with the remedy; returns the exit code for the status.
int PrintError(const absl::Status& status);
// For command lines that cannot be understood.
int PrintUsageError(const absl::Status& status);

// Reads and parses a JobSpec file.
absl::StatusOr<JobSpec> ReadSpecFile(const std::string& path);

// Where Hub downloads are kept: `given`, or the standard place of Hugging Face's own tools.
std::string CacheFolder(const std::string& given);

// Makes `context` fetch Hub names into its cache folder.
void SetHubFetch(JobContext* context);

}  // namespace quantd::engine
