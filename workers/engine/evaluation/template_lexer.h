// A template's text as pieces: plain text, and tags as lists of tokens, with Jinja's rules for the
// white space around tags applied.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/evaluation/template.h"

namespace quantd::engine {

struct TemplateToken {
  enum class Kind { kName, kNumber, kString, kOperator, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;      // A name, an operator, or a string's content.
  nlohmann::json value;  // Of a number.
};

struct TemplatePiece {
  enum class Kind { kText, kOutput, kBlock };
  Kind kind = Kind::kText;
  int line = 1;
  std::string text;
  std::vector<TemplateToken> tokens;  // Closed by one kEnd.
};

// InvalidArgument with the line for a tag that is not closed or a character that no token has.
absl::StatusOr<std::vector<TemplatePiece>> LexTemplate(absl::string_view text,
                                                       const TemplateOptions& options);

}  // namespace quantd::engine
