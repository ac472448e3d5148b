// Text as the inside of a JSON string, for the few places that write JSON a line at a time.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// Quotes, backslashes and control characters escaped; everything else as it is.
std::string EscapeJson(absl::string_view text);

}  // namespace quantd
