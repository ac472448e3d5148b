// "Did you mean": the known name that a mistyped one is closest to.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd {

// The end of "there is no method \"gtpq\"": "; did you mean \"gptq\"?" for the name at the least
// edit distance (case ignored, '-' the same as '_') if at most a third of its characters would have
// to change; else "; there are: awq, gptq" (the first 20), or "; there are none".
std::string Suggestion(absl::string_view name, const std::vector<std::string>& known);

}  // namespace quantd
