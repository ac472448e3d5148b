// The documents of a task: JSON objects from files in the schemas in which the data sets are
// published (JSON, JSON lines, Parquet). Every document has an "id".
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

// Schemas:
//   rows      one object a line, an array of objects, or {"data": [objects]}
//   choices   ARC: {"id", "question": {"stem", "choices"}, "answerKey"} or the Hub's flat one;
//             gives {"id", "question", "choices": {"text", "label"}, "answerKey"}
//   squad     SQuAD's nested articles or the Hub's flat rows; gives {"id", "title", "context",
//             "question", "answers": {"text"}}
//   coqa      CoQA's conversations; gives the Hub's form, one document a conversation
//   coqa_all  the same with a document for every turn, cut behind it; "id" is "ID/TURN"
absl::Status CheckDocumentSchema(absl::string_view schema);

// `origin` names the text in messages; DataLoss with the line or the entry for what does not fit,
// and for a text without documents.
absl::StatusOr<std::vector<nlohmann::json>> ParseTaskDocuments(absl::string_view schema,
                                                               absl::string_view text,
                                                               absl::string_view origin);

// What `dotted` ("choices.text", "answers.0") leads to; null where there is nothing.
const nlohmann::json* FindPath(const nlohmann::json& document, absl::string_view dotted);

}  // namespace quantd::engine
