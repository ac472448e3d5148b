// A task as data: what is asked of each document, what ends an answer, and how answers are scored.
// Built-in rows are the YAML files in tasks/; a user's own is the same (docs/evaluation.md).
// Refuses unknown fields, templates and regular expressions that are not understood, with the
// field's name.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/evaluation/answer_regex.h"
#include "workers/engine/evaluation/template.h"

namespace quantd::engine {

struct Scoring;

// Takes an answer out of an output: the regex's first or last match.
struct AnswerFilter {
  std::string metric;  // The name of the metric that it gives.
  AnswerRegex regex;
  bool last = false;
};

struct TaskRow {
  std::string name;
  std::vector<std::string> aliases;
  std::string summary;
  std::string protocol;   // Whose rules these are, with their version.
  std::string data;       // As the YAML has it; the built-in ones have none.
  std::string documents;  // A name of DocumentSchemas().

  std::optional<Template> prompt;
  std::optional<Template> target;          // The right answer, as text; few-shot examples show it.
  std::string choices;                     // Dotted path of a list of texts: multiple choice.
  std::optional<Template> gold;            // The right choice's index, or its text.
  std::vector<std::string> continuations;  // Their log-likelihoods are wanted besides.

  bool generate = false;
  std::vector<std::string> until;
  int max_tokens = 256;

  int few_shot = 0;
  std::string target_delimiter = " ";
  std::string few_shot_delimiter = "\n\n";

  const Scoring* scoring = nullptr;
  std::vector<AnswerFilter> filters;
  std::vector<AnswerRegex> ignore;  // Deleted from answer and target, in order.
  bool ignore_case = false;

  std::string digest;  // SHA-256 of the YAML text.
};

// `origin` names the text in messages. InvalidArgument with the field and, where known, the line.
absl::StatusOr<TaskRow> ParseTaskRow(absl::string_view yaml, absl::string_view origin);

}  // namespace quantd::engine
