// Calibration documents out of a file: .txt (one document), .jsonl or .parquet (one a row). Refuses
// what it cannot read whole: a damaged line is an error with its number, because silently fewer
// documents would be another calibration.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

struct Document {
  std::string text;
  // Token ids given instead of text: they are used as they are, without a begin token.
  std::vector<int64_t> ids;
};

struct DocumentSet {
  std::vector<Document> documents;  // In the file's order.
  std::string source;               // The path, or "builtin".
  std::string digest;               // SHA-256 of the bytes.
};

// `field` of each object holds a string, an array of token ids, or a conversation's messages
// ({"role", "content"}); empty: "text", or "messages" where there is no such. Blank lines are
// skipped. DataLoss names file, line and what is wrong there.
absl::StatusOr<DocumentSet> LoadDocuments(const std::string& path, absl::string_view field);
absl::StatusOr<DocumentSet> BuiltinDocuments();

}  // namespace quantd::engine
