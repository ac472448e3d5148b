// "Did you mean": the known name that a mistyped one is closest to.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd {

// The candidate at the least edit distance from `name` (case ignored, '-' the same as '_'), or ""
// when none is near enough to be what was meant: more than a third of its characters would have to
// change.
std::string NearestName(absl::string_view name, const std::vector<std::string>& candidates);

}  // namespace quantd
