// A user's own tasks from a folder of YAML files: what --tasks-path names.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "workers/engine/job/spec.h"

namespace quantd::engine {

// Makes every task of `tasks` whose name a file of `path` (a YAML file, or a folder of *.yaml)
// defines an own task with that definition, and gives it the file's `data`, which starts at the
// file's folder, where the spec names none. InvalidArgument for a file that does not parse and for
// two files with one name.
absl::Status TakeDefinitions(const std::string& path, std::vector<TaskSpec>* tasks);

}  // namespace quantd::engine
