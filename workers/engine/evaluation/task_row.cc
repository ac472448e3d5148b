// YAML to JSON to fields, each field one row of a table.
#include "workers/engine/evaluation/task_row.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <functional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/documents.h"
#include "workers/engine/evaluation/scoring.h"

namespace quantd::engine {
namespace {

// A task is a few lines; anchors must not blow it up.
constexpr size_t kYamlBytesMax = 64 << 10;
constexpr int kFewShotMax = 1000;
constexpr int kTokensMax = 1 << 20;

// A node with its place, for messages.
struct Field {
  std::string name;
  YAML::Node node;
  absl::Status Refuse(absl::string_view words) const {
    return absl::InvalidArgumentError(
        absl::StrCat("line ", node.Mark().line + 1, ": ", name, " ", words));
  }
};

absl::Status ReadText(const Field& field, std::string* value) {
  if (!field.node.IsScalar()) return field.Refuse("must be a text");
  *value = field.node.Scalar();
  return absl::OkStatus();
}

absl::Status ReadTexts(const Field& field, std::vector<std::string>* values) {
  if (!field.node.IsSequence()) return field.Refuse("must be a list of texts");
  for (const YAML::Node& item : field.node) {
    if (!item.IsScalar()) return field.Refuse("must be a list of texts");
    values->push_back(item.Scalar());
  }
  return absl::OkStatus();
}

absl::Status ReadInt(const Field& field, int minimum, int maximum, int* value) {
  if (!field.node.IsScalar() || !absl::SimpleAtoi(field.node.Scalar(), value) || *value < minimum ||
      *value > maximum) {
    return field.Refuse(absl::StrCat("must be a whole number from ", minimum, " to ", maximum));
  }
  return absl::OkStatus();
}

absl::Status ReadBool(const Field& field, bool* value) {
  const std::string text = field.node.IsScalar() ? field.node.Scalar() : "";
  if (text != "true" && text != "false") return field.Refuse("must be true or false");
  *value = text == "true";
  return absl::OkStatus();
}

absl::Status ReadTemplate(const Field& field, std::optional<Template>* value) {
  std::string text;
  QD_RETURN_IF_ERROR(ReadText(field, &text));
  QD_ASSIGN_OR_RETURN(Template parsed, Template::Parse(text), "line ", field.node.Mark().line + 1,
                      ": ", field.name);
  *value = std::move(parsed);
  return absl::OkStatus();
}

using Reader = std::function<absl::Status(const Field& field)>;
struct FieldRow {
  const char* name;
  Reader read;
};

// Every field of the map `node` through its reader; an unknown one is refused.
absl::Status ReadMap(const Field& map, const std::vector<FieldRow>& rows) {
  if (!map.node.IsMap()) return map.Refuse("must be a map of names and values");
  for (const auto& item : map.node) {
    if (!item.first.IsScalar()) return map.Refuse("has a key that is no text");
    const std::string name = item.first.Scalar();
    const auto row = std::find_if(rows.begin(), rows.end(),
                                  [&](const FieldRow& one) { return name == one.name; });
    const Field field{map.name.empty() ? name : absl::StrCat(map.name, ".", name), item.second};
    if (row == rows.end()) {
      return Field{field.name, item.first}.Refuse(
          absl::StrCat("is no field; there are ",
                       absl::StrJoin(rows, ", ", [](std::string* out, const FieldRow& one) {
                         absl::StrAppend(out, one.name);
                       })));
    }
    QD_RETURN_IF_ERROR(row->read(field));
  }
  return absl::OkStatus();
}

absl::Status ReadGenerate(const Field& field, TaskRow* row) {
  row->generate = true;
  return ReadMap(field, {{"until", [&](const Field& f) { return ReadTexts(f, &row->until); }},
                         {"max_tokens", [&](const Field& f) {
                            return ReadInt(f, 1, kTokensMax, &row->max_tokens);
                          }}});
}

absl::Status ReadFewShot(const Field& field, TaskRow* row) {
  return ReadMap(
      field,
      {{"count", [&](const Field& f) { return ReadInt(f, 0, kFewShotMax, &row->few_shot); }},
       {"delimiter", [&](const Field& f) { return ReadText(f, &row->few_shot_delimiter); }}});
}

absl::Status ReadFilter(const Field& field, AnswerFilter* filter) {
  std::string pattern, pick = "first";
  QD_RETURN_IF_ERROR(
      ReadMap(field, {{"regex", [&](const Field& f) { return ReadText(f, &pattern); }},
                      {"pick", [&](const Field& f) { return ReadText(f, &pick); }}}));
  if (pick != "first" && pick != "last") return field.Refuse("has a pick other than first or last");
  filter->last = pick == "last";
  absl::StatusOr<AnswerRegex> regex = AnswerRegex::Compile(pattern);
  if (!regex.ok()) return field.Refuse(regex.status().message());
  filter->regex = *std::move(regex);
  return absl::OkStatus();
}

absl::Status ReadFilters(const Field& field, TaskRow* row) {
  if (!field.node.IsMap()) return field.Refuse("must be a map from metric names to filters");
  for (const auto& item : field.node) {
    AnswerFilter& filter = row->filters.emplace_back();
    filter.metric = item.first.Scalar();
    QD_RETURN_IF_ERROR(
        ReadFilter({absl::StrCat(field.name, ".", filter.metric), item.second}, &filter));
  }
  return absl::OkStatus();
}

absl::Status ReadIgnore(const Field& field, TaskRow* row) {
  std::vector<std::string> patterns;
  QD_RETURN_IF_ERROR(ReadTexts(field, &patterns));
  for (const std::string& pattern : patterns) {
    absl::StatusOr<AnswerRegex> regex = AnswerRegex::Compile(pattern);
    if (!regex.ok()) return field.Refuse(regex.status().message());
    row->ignore.push_back(*std::move(regex));
  }
  return absl::OkStatus();
}

absl::Status ReadScoring(const Field& field, TaskRow* row) {
  std::string name;
  QD_RETURN_IF_ERROR(ReadText(field, &name));
  absl::StatusOr<const Scoring*> scoring = FindScoring(name);
  if (!scoring.ok()) return field.Refuse(scoring.status().message());
  row->scoring = *scoring;
  return absl::OkStatus();
}

absl::Status ReadDocuments(const Field& field, TaskRow* row) {
  QD_RETURN_IF_ERROR(ReadText(field, &row->documents));
  const absl::Status known = CheckDocumentSchema(row->documents);
  return known.ok() ? known : field.Refuse(known.message());
}

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
  });
}

absl::Status CheckRow(const TaskRow& row) {
  const auto refuse = [](absl::string_view words) { return absl::InvalidArgumentError(words); };
  if (!IsName(row.name)) return refuse("task must be a name of letters, digits, _ and -");
  if (!row.prompt) return refuse("prompt is missing");
  if (row.scoring == nullptr) return refuse("score is missing");
  if (row.choices.empty() != !row.gold) return refuse("choices and gold belong together");
  if (row.scoring->needs_choices && row.choices.empty()) {
    return refuse(absl::StrCat("score: ", row.scoring->name, " needs choices and gold"));
  }
  if (row.scoring->needs_generation && !row.generate) {
    return refuse(absl::StrCat("score: ", row.scoring->name, " needs generate"));
  }
  if (!row.generate && row.choices.empty()) return refuse("generate or choices is missing");
  if (row.generate && !row.choices.empty() && std::string(row.scoring->name) == "choice") {
    return refuse("score: choice goes without generate");
  }
  if (std::string(row.scoring->name) == "match" && !row.target) {
    return refuse("score: match needs target");
  }
  if (!row.filters.empty() && std::string(row.scoring->name) != "match") {
    return refuse("filters go with score: match");
  }
  return absl::OkStatus();
}

absl::Status ReadRow(const YAML::Node& root, TaskRow* row) {
  row->documents = "rows";
  const auto text = [](std::string* value) -> Reader {
    return [value](const Field& f) { return ReadText(f, value); };
  };
  const auto texts = [](std::vector<std::string>* values) -> Reader {
    return [values](const Field& f) { return ReadTexts(f, values); };
  };
  const auto parsed = [](std::optional<Template>* value) -> Reader {
    return [value](const Field& f) { return ReadTemplate(f, value); };
  };
  const auto with = [row](absl::Status (*read)(const Field&, TaskRow*)) -> Reader {
    return [row, read](const Field& f) { return read(f, row); };
  };
  QD_RETURN_IF_ERROR(ReadMap({"", root}, {{"task", text(&row->name)},
                                          {"aliases", texts(&row->aliases)},
                                          {"summary", text(&row->summary)},
                                          {"protocol", text(&row->protocol)},
                                          {"data", text(&row->data)},
                                          {"documents", with(ReadDocuments)},
                                          {"prompt", parsed(&row->prompt)},
                                          {"target", parsed(&row->target)},
                                          {"choices", text(&row->choices)},
                                          {"gold", parsed(&row->gold)},
                                          {"continuations", texts(&row->continuations)},
                                          {"generate", with(ReadGenerate)},
                                          {"few_shot", with(ReadFewShot)},
                                          {"target_delimiter", text(&row->target_delimiter)},
                                          {"score", with(ReadScoring)},
                                          {"filters", with(ReadFilters)},
                                          {"ignore", with(ReadIgnore)},
                                          {"ignore_case", [row](const Field& f) {
                                             return ReadBool(f, &row->ignore_case);
                                           }}}));
  return CheckRow(*row);
}

}  // namespace

absl::StatusOr<TaskRow> ParseTaskRow(absl::string_view yaml, absl::string_view origin) {
  if (yaml.size() > kYamlBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": ", yaml.size(), " bytes; a task has at most ", kYamlBytesMax));
  }
  TaskRow row;
  row.digest = Sha256Hex(yaml);
  try {
    const YAML::Node root = YAML::Load(std::string(yaml));
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": is no map of names and values"));
    }
    QD_RETURN_IF_ERROR(ReadRow(root, &row), origin);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": line ", error.mark.line + 1, ": ", error.msg));
  }
  return row;
}

}  // namespace quantd::engine
