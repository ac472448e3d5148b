// Multiple-choice questions from JSON lines: ARC's own schema
//   {"id", "question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}
// and the Hub's flattened one
//   {"id", "question": "...", "choices": {"text": [...], "label": [...]}, "answerKey"}.
// A line that is neither is an error with its number.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

struct ChoiceQuestion {
  std::string id;
  std::string question;
  std::vector<std::string> choices;  // 2 to kChoicesMax texts, none empty.
  std::vector<std::string> labels;   // As many: "A", "B" or "1", "2".
  size_t answer = 0;                 // Index of the right one.
};

// `origin` names the text in messages; `limit` > 0 keeps the first so many questions.
absl::StatusOr<std::vector<ChoiceQuestion>> ParseChoiceQuestions(absl::string_view text,
                                                                 absl::string_view origin,
                                                                 int limit);

}  // namespace quantd::engine
