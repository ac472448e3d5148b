// See documents.h.
#include "workers/engine/calibration/documents.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/calibration/builtin.h"
#include "workers/engine/parquet/parquet.h"

namespace quantd::engine {
namespace {

// Calibration needs well under a million tokens; a file above this is the wrong file.
constexpr int64_t kFileBytesMax = int64_t{512} << 20;
constexpr int64_t kTokenIdMax = int64_t{1} << 31;

// Messages as chat data sets have them, {"role", "content"}: what was said, one below the other.
absl::StatusOr<Document> ParseConversation(const nlohmann::json& messages,
                                           absl::string_view field) {
  std::vector<std::string> said;
  for (const nlohmann::json& message : messages) {
    const auto content = message.is_object() ? message.find("content") : message.end();
    if (content == message.end() || !content->is_string()) {
      return absl::DataLossError(
          absl::StrCat("has a message without text (\"content\") in its '", field, "'"));
    }
    said.push_back(content->get<std::string>());
  }
  return Document{.text = absl::StrJoin(said, "\n\n"), .ids = {}};
}

absl::StatusOr<Document> ParseLine(absl::string_view line, absl::string_view field) {
  const nlohmann::json object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) return absl::DataLossError("is not valid JSON");
  if (!object.is_object()) return absl::DataLossError("is not a JSON object");
  const bool messages = field.empty() && !object.contains("text") && object.contains("messages");
  if (field.empty()) field = messages ? "messages" : "text";
  const auto value = object.find(std::string(field));
  if (value == object.end()) {
    std::string fields;
    for (const auto& [name, unused] : object.items()) absl::StrAppend(&fields, " '", name, "'");
    return absl::DataLossError(absl::StrCat("has no field '", field, "'; its fields:", fields,
                                            ". Set calibration.text_field to one of them"));
  }
  Document document;
  if (value->is_string()) {
    document.text = value->get<std::string>();
    return document;
  }
  if (!value->is_array() || value->empty()) {
    return absl::DataLossError(
        absl::StrCat("has a '", field, "' that is neither text nor a list of token ids"));
  }
  if (value->front().is_object()) return ParseConversation(*value, field);
  for (const nlohmann::json& id : *value) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kTokenIdMax) {
      return absl::DataLossError(absl::StrCat("has ", id.dump(), " among its token ids"));
    }
    document.ids.push_back(id.get<int64_t>());
  }
  return document;
}

absl::StatusOr<std::vector<Document>> ParseLines(absl::string_view bytes, absl::string_view field) {
  std::vector<Document> documents;
  int64_t number = 0;
  for (absl::string_view line : absl::StrSplit(bytes, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    if (!IsValidUtf8(line)) {
      return absl::DataLossError(absl::StrCat("line ", number, " is not valid UTF-8"));
    }
    absl::StatusOr<Document> document = ParseLine(line, field);
    if (!document.ok()) {
      return absl::DataLossError(absl::StrCat("line ", number, " ", document.status().message()));
    }
    documents.push_back(*std::move(document));
  }
  if (documents.empty()) return absl::DataLossError("there is no document in it");
  return documents;
}

}  // namespace

absl::StatusOr<DocumentSet> LoadDocuments(const std::string& path, absl::string_view field) {
  const bool parquet = absl::EndsWith(path, ".parquet");
  const bool lines = parquet || absl::EndsWith(path, ".jsonl");
  if (!lines && !absl::EndsWith(path, ".txt")) {
    return absl::InvalidArgumentError(
        absl::StrCat("calibration file ", path, " ends in none of .txt, .jsonl and .parquet"));
  }
  QD_ASSIGN_OR_RETURN(std::string bytes, ReadFile(path, kFileBytesMax), "reading calibration text");
  DocumentSet set = {.documents = {}, .source = path, .digest = Sha256Hex(bytes)};
  if (parquet) {
    QD_ASSIGN_OR_RETURN(bytes, ParquetToJsonLines(bytes), "calibration file ", path);
  }
  if (lines) {
    QD_ASSIGN_OR_RETURN(set.documents, ParseLines(bytes, field), "calibration file ", path);
    return set;
  }
  if (!IsValidUtf8(bytes)) {
    int64_t number = 1;
    for (absl::string_view line : absl::StrSplit(bytes, '\n')) {
      if (!IsValidUtf8(line)) break;
      ++number;
    }
    return absl::DataLossError(
        absl::StrCat("calibration file ", path, ": line ", number, " is not valid UTF-8"));
  }
  set.documents.push_back({.text = std::move(bytes), .ids = {}});
  return set;
}

absl::StatusOr<DocumentSet> BuiltinDocuments() {
  const absl::string_view bytes = BuiltinCalibrationText();
  DocumentSet set = {.documents = {}, .source = "builtin", .digest = Sha256Hex(bytes)};
  QD_ASSIGN_OR_RETURN(set.documents, ParseLines(bytes, "text"), "the built-in calibration text");
  return set;
}

}  // namespace quantd::engine
