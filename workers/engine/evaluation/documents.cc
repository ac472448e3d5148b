// One function a schema; each checks what the others rely on, so that a template never meets a
// half-read document.
#include "workers/engine/evaluation/documents.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/choice_data.h"
#include "workers/engine/parquet/parquet.h"

namespace quantd::engine {
namespace {

using nlohmann::json;
using Documents = std::vector<json>;

// A field that a schema requires, of the type that it must have.
absl::StatusOr<json> Want(const json& object, const char* field, json::value_t type) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  if (!object.is_object() || found == object.end() || found->type() != type) {
    return absl::DataLossError(absl::StrCat("field \"", field, "\" must be ",
                                            type == json::value_t::array    ? "an array"
                                            : type == json::value_t::string ? "a string"
                                                                            : "an object"));
  }
  return *found;
}

bool IsObject(const json& value) { return value.is_object(); }

// The file's objects, whichever way it holds them.
absl::StatusOr<Documents> Objects(absl::string_view text) {
  const json whole = json::parse(text, nullptr, false);
  if (!whole.is_discarded()) {
    const json& list = whole.is_object() && whole.contains("data") ? whole["data"] : whole;
    if (list.is_object()) return Documents{list};
    if (!list.is_array()) return absl::DataLossError("holds no array of objects");
    for (size_t i = 0; i < list.size(); ++i) {
      if (!IsObject(list[i])) {
        return absl::DataLossError(absl::StrCat("entry ", i, " is no JSON object"));
      }
    }
    return list.get<Documents>();
  }
  Documents documents;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    json object = json::parse(line, nullptr, false);
    if (!IsObject(object)) {
      return absl::DataLossError(absl::StrCat("line ", number, " is no JSON object"));
    }
    documents.push_back(std::move(object));
  }
  return documents;
}

// "id" as a text: the document's own, or its number.
void GiveId(size_t number, json* document) {
  json& id = (*document)["id"];
  id = id.is_string() ? id : id.is_null() ? json(absl::StrCat(number)) : json(id.dump());
}

absl::StatusOr<Documents> Rows(absl::string_view text, absl::string_view) {
  QD_ASSIGN_OR_RETURN(Documents documents, Objects(text));
  for (size_t i = 0; i < documents.size(); ++i) GiveId(i, &documents[i]);
  return documents;
}

absl::StatusOr<Documents> Choices(absl::string_view text, absl::string_view) {
  QD_ASSIGN_OR_RETURN(const std::vector<ChoiceQuestion> questions,
                      ParseChoiceQuestions(text, "", 0));
  Documents documents;
  for (const ChoiceQuestion& question : questions) {
    documents.push_back({{"id", question.id},
                         {"question", question.question},
                         {"choices", {{"text", question.choices}, {"label", question.labels}}},
                         {"answerKey", question.labels[question.answer]}});
  }
  return documents;
}

// {"text": [...]} from SQuAD's list of {text, answer_start} or from the Hub's object of lists.
absl::StatusOr<json> SquadAnswers(const json& question) {
  const auto found = question.find("answers");
  json texts = json::array();
  if (found != question.end() && found->is_array()) {
    for (const json& answer : *found) {
      QD_ASSIGN_OR_RETURN(const json text, Want(answer, "text", json::value_t::string), "answers");
      texts.push_back(text);
    }
  } else if (found != question.end() && found->is_object()) {
    QD_ASSIGN_OR_RETURN(texts, Want(*found, "text", json::value_t::array), "answers");
    for (const json& text : texts) {
      if (!text.is_string()) return absl::DataLossError("answers.text must hold strings");
    }
  } else {
    return absl::DataLossError("field \"answers\" must be an array or an object");
  }
  return json{{"text", std::move(texts)}};
}

absl::StatusOr<json> SquadQuestion(const json& question, const json& title, const json& context) {
  json document = {{"title", title}, {"context", context}};
  for (const char* field : {"id", "question"}) {
    QD_ASSIGN_OR_RETURN(document[field], Want(question, field, json::value_t::string));
  }
  QD_ASSIGN_OR_RETURN(document["answers"], SquadAnswers(question));
  return document;
}

absl::Status SquadArticle(const json& article, Documents* documents) {
  const json title = article.value("title", json(""));
  QD_ASSIGN_OR_RETURN(const json paragraphs, Want(article, "paragraphs", json::value_t::array));
  for (const json& paragraph : paragraphs) {
    QD_ASSIGN_OR_RETURN(const json context, Want(paragraph, "context", json::value_t::string));
    QD_ASSIGN_OR_RETURN(const json questions, Want(paragraph, "qas", json::value_t::array));
    for (const json& question : questions) {
      QD_ASSIGN_OR_RETURN(documents->emplace_back(), SquadQuestion(question, title, context));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Documents> Squad(absl::string_view text, absl::string_view) {
  QD_ASSIGN_OR_RETURN(const Documents objects, Objects(text));
  Documents documents;
  for (size_t i = 0; i < objects.size(); ++i) {
    if (objects[i].contains("paragraphs")) {
      QD_RETURN_IF_ERROR(SquadArticle(objects[i], &documents), "article ", i);
      continue;
    }
    QD_ASSIGN_OR_RETURN(const json context, Want(objects[i], "context", json::value_t::string),
                        "entry ", i);
    QD_ASSIGN_OR_RETURN(documents.emplace_back(),
                        SquadQuestion(objects[i], objects[i].value("title", json("")), context),
                        "entry ", i);
  }
  return documents;
}

// {"input_text": [...]} from CoQA's list of turns or from the Hub's object of lists.
absl::StatusOr<json> Turns(const json& value, size_t count) {
  json texts = json::array();
  if (value.is_array()) {
    for (const json& turn : value) {
      QD_ASSIGN_OR_RETURN(const json text, Want(turn, "input_text", json::value_t::string));
      texts.push_back(text);
    }
  } else {
    QD_ASSIGN_OR_RETURN(texts, Want(value, "input_text", json::value_t::array));
    for (const json& text : texts) {
      if (!text.is_string()) return absl::DataLossError("input_text must hold strings");
    }
  }
  if (texts.empty() || (count > 0 && texts.size() != count)) {
    return absl::DataLossError(
        absl::StrCat("there are ", texts.size(), " turns, where ", count, " are expected"));
  }
  return json{{"input_text", std::move(texts)}};
}

absl::StatusOr<json> Conversation(const json& object) {
  json document = json::object();
  document["id"] = object.value("id", json());
  QD_ASSIGN_OR_RETURN(document["story"], Want(object, "story", json::value_t::string));
  QD_ASSIGN_OR_RETURN(document["questions"], Turns(object.value("questions", json()), 0),
                      "questions");
  const size_t count = document["questions"]["input_text"].size();
  QD_ASSIGN_OR_RETURN(document["answers"], Turns(object.value("answers", json()), count),
                      "answers");
  document["additional_answers"] = json::object();
  const json more = object.value("additional_answers", json::object());
  if (!more.is_object() && !more.is_null()) {
    return absl::DataLossError("field \"additional_answers\" must be an object");
  }
  for (const auto& item : more.items()) {
    // The Hub's rows have null for a set that is not there.
    if (item.value().is_null()) continue;
    QD_ASSIGN_OR_RETURN(document["additional_answers"][item.key()], Turns(item.value(), count),
                        "additional_answers.", item.key());
  }
  return document;
}

absl::StatusOr<Documents> Coqa(absl::string_view text, absl::string_view) {
  QD_ASSIGN_OR_RETURN(const Documents objects, Objects(text));
  Documents documents;
  for (size_t i = 0; i < objects.size(); ++i) {
    QD_ASSIGN_OR_RETURN(documents.emplace_back(), Conversation(objects[i]), "conversation ", i);
    GiveId(i, &documents.back());
  }
  return documents;
}

void CutTurns(size_t count, json* turns) {
  json& texts = (*turns)["input_text"];
  texts.erase(texts.begin() + static_cast<ptrdiff_t>(count), texts.end());
}

absl::StatusOr<Documents> CoqaAll(absl::string_view text, absl::string_view origin) {
  QD_ASSIGN_OR_RETURN(const Documents conversations, Coqa(text, origin));
  Documents documents;
  for (const json& conversation : conversations) {
    const size_t turns = conversation["questions"]["input_text"].size();
    for (size_t turn = 1; turn <= turns; ++turn) {
      json& document = documents.emplace_back(conversation);
      document["id"] = absl::StrCat(conversation["id"].get<std::string>(), "/", turn);
      CutTurns(turn, &document["questions"]);
      CutTurns(turn, &document["answers"]);
      for (auto& more : document["additional_answers"]) CutTurns(turn, &more);
    }
  }
  return documents;
}

struct Schema {
  const char* name;
  absl::StatusOr<Documents> (*parse)(absl::string_view text, absl::string_view origin);
};
constexpr Schema kSchemas[] = {
    {"rows", Rows}, {"choices", Choices}, {"squad", Squad}, {"coqa", Coqa}, {"coqa_all", CoqaAll}};

const Schema* FindSchema(absl::string_view name) {
  for (const Schema& schema : kSchemas) {
    if (name == schema.name) return &schema;
  }
  return nullptr;
}

}  // namespace

absl::Status CheckDocumentSchema(absl::string_view schema) {
  if (FindSchema(schema) != nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", schema, "\" is no schema; there are ",
      absl::StrJoin(kSchemas, ", ",
                    [](std::string* out, const Schema& one) { absl::StrAppend(out, one.name); })));
}

absl::StatusOr<Documents> ParseTaskDocuments(absl::string_view schema, absl::string_view text,
                                             absl::string_view origin) {
  if (IsParquet(text)) {
    QD_ASSIGN_OR_RETURN(const std::string lines, ParquetToJsonLines(text), origin);
    if (lines.empty()) {
      return absl::DataLossError(absl::StrCat(origin, ": there are no documents in it"));
    }
    return ParseTaskDocuments(schema, lines, origin);
  }
  absl::StatusOr<Documents> documents = FindSchema(schema)->parse(text, origin);
  QD_RETURN_IF_ERROR(documents.status(), origin);
  if (documents->empty()) {
    return absl::DataLossError(absl::StrCat(origin, ": there are no documents in it"));
  }
  return documents;
}

const json* FindPath(const json& document, absl::string_view dotted) {
  const json* at = &document;
  for (absl::string_view part : absl::StrSplit(dotted, '.')) {
    size_t index = 0;
    if (at->is_object() && at->contains(std::string(part))) {
      at = &(*at)[std::string(part)];
    } else if (at->is_array() && absl::SimpleAtoi(part, &index) && index < at->size()) {
      at = &(*at)[index];
    } else {
      return nullptr;
    }
  }
  return at;
}

}  // namespace quantd::engine
