// A regular expression over module names from a user or a file: std::regex without its exceptions
// and without the long patterns on which it overflows its stack.
#pragma once

#include <regex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

class Pattern {
 public:
  // ECMAScript. InvalidArgument quotes the pattern and says what is wrong with it.
  static absl::StatusOr<Pattern> Compile(absl::string_view pattern);
  // Anywhere in `name`; a name that is too costly to match does not match.
  bool Found(absl::string_view name) const {
    return Search(name, std::regex_constants::match_default);
  }
  // From the first character of `name` on.
  bool MatchesStart(absl::string_view name) const {
    return Search(name, std::regex_constants::match_continuous);
  }

 private:
  bool Search(absl::string_view name, std::regex_constants::match_flag_type flags) const;
  std::regex regex_;
};

}  // namespace quantd::engine
