// `quantd migrate --from sqlite:PATH --to postgres://...`: moves the queue while no scheduler runs.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace quantd {

// `args` without the program's name and "migrate". What to print, or what is wrong.
absl::StatusOr<std::string> Migrate(const std::vector<std::string>& args);

}  // namespace quantd
