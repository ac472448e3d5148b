// See pattern.h.
#include "workers/engine/formats/pattern.h"

#include "absl/strings/str_cat.h"

namespace quantd::engine {
namespace {
constexpr size_t kPatternBytesMax =
    1024;  // No module name is longer; std::regex recurses over a pattern.
constexpr size_t kNameBytesMax = 1024;  // It recurses over the text too.
}  // namespace

absl::StatusOr<Pattern> Pattern::Compile(absl::string_view pattern) {
  if (pattern.empty() || pattern.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("a pattern has ", pattern.size(),
                                                   " bytes instead of 1 to ", kPatternBytesMax));
  }
  try {
    Pattern result;
    result.regex_ = std::regex(pattern.begin(), pattern.end(), std::regex::ECMAScript);
    return result;
  } catch (const std::regex_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", pattern, "' is not an ECMAScript regular expression: ", error.what()));
  }
}

bool Pattern::Search(absl::string_view name, std::regex_constants::match_flag_type flags) const {
  if (name.size() > kNameBytesMax) return false;
  try {
    return std::regex_search(name.begin(), name.end(), regex_, flags);
  } catch (const std::regex_error&) {
    return false;
  }
}

}  // namespace quantd::engine
