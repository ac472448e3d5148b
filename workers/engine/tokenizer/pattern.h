// What a tokenizer.json calls a pattern: a literal string or a regex, through Oniguruma in Ruby
// syntax, which is the reference's engine. A regex that backtracks without end is stopped and
// reported, because the file may come from a stranger.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// A piece of a text, in bytes, and whether the pattern matched it.
struct PatternSpan {
  size_t begin;
  size_t end;
  bool matched;
};

// Immutable and thread-safe.
class Pattern {
 public:
  static absl::StatusOr<Pattern> Literal(absl::string_view text);
  // InvalidArgument with the engine's words for a regex that it does not accept.
  static absl::StatusOr<Pattern> Regex(absl::string_view regex);

  // Every match from left to right and what lies between them: together the whole of `text`, which
  // must be valid UTF-8. ResourceExhausted when matching exceeds kRetryLimit.
  absl::StatusOr<std::vector<PatternSpan>> FindAll(absl::string_view text) const;

 private:
  struct Compiled;
  Pattern() = default;
  absl::StatusOr<std::vector<PatternSpan>> FindAllRegex(absl::string_view text) const;

  std::string literal_;
  std::shared_ptr<const Compiled> compiled_;  // Null for a literal.
};

// `regex` with every Unicode class completed by the characters that it gained since Unicode 14, so
// that old and new versions of Oniguruma agree.
std::string CompleteUnicodeClasses(absl::string_view regex);

}  // namespace quantd
