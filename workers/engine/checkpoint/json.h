// JSON from files that nobody vouches for: size and depth limited, duplicate keys refused, nothing
// thrown.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

// Deeper than any real configuration; a bound on what the parser keeps.
constexpr int kJsonDepthMax = 64;

// A JSON object from a file. DataLoss: not one, or it breaks a limit; the message says where.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, int64_t limit_bytes);
// The same from text; `origin` names it in messages.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view origin);

// Feeds `text` to `handler`; false when it, or the parser, refuses. nlohmann takes a NUL byte for
// the end and would accept anything behind it, so a NUL is made an error here.
template <typename Handler>
bool SaxParse(absl::string_view text, Handler* handler) {
  const size_t nul = text.find('\0');
  if (nul != absl::string_view::npos) {
    return handler->parse_error(nul, "NUL", nlohmann::json::other_error::create(0, "", nullptr));
  }
  return nlohmann::json::sax_parse(text.begin(), text.end(), handler);
}

// A value as JSON text for a message: cut at 100 bytes, never throwing.
std::string JsonText(const nlohmann::json& value);
// Text from a file for a message: cut at 100 bytes, unprintable bytes escaped, quoted.
std::string Quoted(absl::string_view text);

}  // namespace quantd::engine
