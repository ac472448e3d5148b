// A user's own tasks from a folder of YAML files: what --tasks-path names.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "workers/engine/job/spec.h"

namespace quantd::engine {

// Gives every task of `tasks` whose name a file of `path` (a YAML file, or a folder of *.yaml)
// defines its definition, and its data where the spec names none: the file's `data` starts at the
// file's folder. InvalidArgument for a file that does not parse and for two files with one name.
absl::Status TakeDefinitions(const std::string& path, std::vector<TaskSpec>* tasks);

}  // namespace quantd::engine
