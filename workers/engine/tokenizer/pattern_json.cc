// The two spellings of a pattern.
#include "workers/engine/tokenizer/pattern_json.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd {

absl::StatusOr<Pattern> PatternFromJson(const JsonView& component) {
  QD_ASSIGN_OR_RETURN(JsonView pattern, component.Member("pattern"));
  QD_ASSIGN_OR_RETURN(JsonView literal, pattern.Member("String"));
  if (!literal.IsNull()) {
    QD_ASSIGN_OR_RETURN(std::string text, literal.String());
    return Pattern::Literal(text);
  }
  QD_ASSIGN_OR_RETURN(JsonView regex, pattern.Member("Regex"));
  if (regex.IsNull()) return pattern.Error("must hold \"String\" or \"Regex\"");
  QD_ASSIGN_OR_RETURN(std::string text, regex.String());
  QD_ASSIGN_OR_RETURN(Pattern compiled, Pattern::Regex(text), regex.path());
  return compiled;
}

}  // namespace quantd
