// Statements are cached by their text: a store has a few dozen, and preparing one costs more than
// running it.
#include "server/store/sql.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json_text.h"

namespace quantd {

int64_t ToMicros(absl::Time time) {
  if (time == absl::InfiniteFuture()) return std::numeric_limits<int64_t>::max();
  if (time == absl::InfinitePast()) return std::numeric_limits<int64_t>::min();
  return absl::ToUnixMicros(time);
}

absl::Time FromMicros(int64_t micros) {
  if (micros == std::numeric_limits<int64_t>::max()) return absl::InfiniteFuture();
  if (micros == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  return absl::FromUnixMicros(micros);
}

std::string JsonOf(const std::vector<std::string>& texts) {
  return absl::StrCat("[",
                      absl::StrJoin(texts, ",",
                                    [](std::string* out, const std::string& text) {
                                      absl::StrAppend(out, "\"", EscapeJson(text), "\"");
                                    }),
                      "]");
}

void SqlQuery::Next(google::protobuf::MessageLite* value) {
  const absl::string_view bytes = statement_->Bytes(column_++);
  value->Clear();
  if (!bytes.empty() && !value->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    parsed_ = false;
  }
}

absl::Status SqlQuery::Parsed() const {
  if (parsed_) return absl::OkStatus();
  return absl::DataLossError("a stored message does not parse: the database is damaged");
}

SqlStatement* SqlConnection::Find(absl::string_view sql) {
  auto& cached = statements_[sql];
  if (cached == nullptr) cached = Prepare(sql);
  return cached.get();
}

}  // namespace quantd
