// Both schemas lead to the same struct; every field is checked before it is used.
#include "workers/engine/evaluation/choice_data.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

// The sets in use have three to five choices; more than these is another kind of file.
constexpr size_t kChoicesMax = 64;

absl::StatusOr<std::string> Text(const nlohmann::json& object, const char* field) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  if (found == object.end() || !found->is_string() || found->get<std::string>().empty()) {
    return absl::DataLossError(absl::StrCat("field \"", field, "\" must be a string with text"));
  }
  return found->get<std::string>();
}

// {text, label} pairs from either schema.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Choices(
    const nlohmann::json& choices) {
  std::vector<std::pair<std::string, std::string>> result;
  if (choices.is_array()) {
    for (const nlohmann::json& choice : choices) {
      QD_ASSIGN_OR_RETURN(std::string text, Text(choice, "text"));
      QD_ASSIGN_OR_RETURN(std::string label, Text(choice, "label"));
      result.emplace_back(std::move(text), std::move(label));
    }
  } else if (choices.is_object() && choices.contains("text") && choices.contains("label") &&
             choices["text"].is_array() && choices["label"].is_array() &&
             choices["text"].size() == choices["label"].size()) {
    for (size_t i = 0; i < choices["text"].size(); ++i) {
      const nlohmann::json pair = {{"text", choices["text"][i]}, {"label", choices["label"][i]}};
      QD_ASSIGN_OR_RETURN(std::string text, Text(pair, "text"));
      QD_ASSIGN_OR_RETURN(std::string label, Text(pair, "label"));
      result.emplace_back(std::move(text), std::move(label));
    }
  } else {
    return absl::DataLossError(
        "field \"choices\" must be an array of {text, label}, or {text: [...], label: [...]}");
  }
  if (result.size() < 2 || result.size() > kChoicesMax) {
    return absl::DataLossError(
        absl::StrCat("there are ", result.size(), " choices; 2 to ", kChoicesMax, " are possible"));
  }
  return result;
}

absl::StatusOr<ChoiceQuestion> ParseQuestion(const nlohmann::json& json, size_t number) {
  if (!json.is_object() || !json.contains("question")) {
    return absl::DataLossError("not a JSON object with a field \"question\"");
  }
  ChoiceQuestion result;
  const nlohmann::json& id = json.value("id", nlohmann::json());
  result.id = id.is_string() ? id.get<std::string>()
              : id.is_null() ? absl::StrCat(number)
                             : id.dump();
  const nlohmann::json& question = json["question"];
  nlohmann::json choices;
  if (question.is_object()) {
    QD_ASSIGN_OR_RETURN(result.question, Text(question, "stem"));
    choices = question.value("choices", nlohmann::json());
  } else {
    QD_ASSIGN_OR_RETURN(result.question, Text(json, "question"));
    choices = json.value("choices", nlohmann::json());
  }
  QD_ASSIGN_OR_RETURN(const auto pairs, Choices(choices));
  QD_ASSIGN_OR_RETURN(const std::string key, Text(json, "answerKey"));
  result.answer = pairs.size();
  for (size_t i = 0; i < pairs.size(); ++i) {
    result.choices.push_back(pairs[i].first);
    result.labels.push_back(pairs[i].second);
    if (pairs[i].second == key && result.answer == pairs.size()) result.answer = i;
  }
  if (result.answer == pairs.size()) {
    return absl::DataLossError(absl::StrCat("answerKey \"", key, "\" is none of the labels ",
                                            absl::StrJoin(result.labels, ", ")));
  }
  return result;
}

}  // namespace

absl::StatusOr<std::vector<ChoiceQuestion>> ParseChoiceQuestions(absl::string_view text,
                                                                 absl::string_view origin,
                                                                 int limit) {
  std::vector<ChoiceQuestion> questions;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (limit > 0 && questions.size() == static_cast<size_t>(limit)) break;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_discarded()) {
      return absl::DataLossError(
          absl::StrCat(origin, origin.empty() ? "" : ", ", "line ", number, ": not valid JSON"));
    }
    QD_ASSIGN_OR_RETURN(ChoiceQuestion question, ParseQuestion(json, number), origin,
                        origin.empty() ? "" : ", ", "line ", number);
    questions.push_back(std::move(question));
  }
  if (questions.empty()) {
    return absl::DataLossError(
        absl::StrCat(origin, origin.empty() ? "" : ": ", "there are no questions in it"));
  }
  return questions;
}

}  // namespace quantd::engine
