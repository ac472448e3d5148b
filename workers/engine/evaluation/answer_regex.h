// Regular expressions of tasks, as Python's re reads them (through Oniguruma's Python syntax), for
// taking an answer out of a text. Bounded: one that backtracks without end is an error.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

// Immutable and thread-safe.
class AnswerRegex {
 public:
  // InvalidArgument with the engine's words for what is no regular expression.
  static absl::StatusOr<AnswerRegex> Compile(absl::string_view pattern);

  // re.findall, each match as its first group that is not empty; the whole match where there are no
  // groups, "" where all groups are empty.
  absl::StatusOr<std::vector<std::string>> FindAll(absl::string_view text) const;
  // re.sub(pattern, "", text).
  absl::StatusOr<std::string> Remove(absl::string_view text) const;

 private:
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace quantd::engine
