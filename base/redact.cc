// A table of shapes: a prefix and how many characters of a token have to follow.
#include "base/redact.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/json_text.h"

namespace quantd {
namespace {

constexpr size_t kValueBytesMin = 6;
constexpr char kMask[] = "***";

struct Shape {
  absl::string_view prefix;
  size_t tail_min;
  bool (*is_tail)(char c);
};

bool IsTokenCharacter(char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-'; }
bool IsKeyIdCharacter(char c) { return absl::ascii_isupper(c) || absl::ascii_isdigit(c); }

constexpr Shape kShapes[] = {
    {"hf_", 20, IsTokenCharacter},  // Hugging Face Hub.
    {"qdt_", 20, IsTokenCharacter},
    {"AKIA", 16, IsKeyIdCharacter},  // AWS: long-lived and temporary key ids.
    {"ASIA", 16, IsKeyIdCharacter},
};

struct Found {
  size_t begin = absl::string_view::npos;  // Of what is taken out.
  size_t end = absl::string_view::npos;
};

Found FirstShape(absl::string_view text, size_t from, const Shape& shape) {
  for (size_t at = text.find(shape.prefix, from); at != text.npos;
       at = text.find(shape.prefix, at + 1)) {
    if (at > 0 && IsTokenCharacter(text[at - 1])) continue;
    const size_t begin = at + shape.prefix.size();
    size_t end = begin;
    while (end < text.size() && shape.is_tail(text[end])) ++end;
    if (end - begin >= shape.tail_min) return {begin, end};
  }
  return {};
}

// "://user:password@": the password.
Found FirstPassword(absl::string_view text, size_t from) {
  for (size_t at = text.find("://", from); at != text.npos; at = text.find("://", at + 1)) {
    size_t colon = text.npos;
    for (size_t i = at + 3; i < text.size(); ++i) {
      const char c = text[i];
      if (c == '/' || c == '"' || c == '\'' || absl::ascii_isspace(c)) break;
      if (c == ':' && colon == text.npos) colon = i;
      if (c == '@' && colon != text.npos && i > colon + 1) return {colon + 1, i};
    }
  }
  return {};
}

Found First(absl::string_view text, size_t from) {
  Found best = FirstPassword(text, from);
  for (const Shape& shape : kShapes) {
    const Found found = FirstShape(text, from, shape);
    if (found.begin < best.begin) best = found;
  }
  return best;
}

}  // namespace

bool HoldsSecret(absl::string_view text) {
  const Found found = First(text, 0);
  return found.begin != text.npos && text.substr(found.begin, found.end - found.begin) != kMask;
}

std::string RedactSecrets(absl::string_view text) {
  std::string out;
  size_t at = 0;
  for (Found found = First(text, 0); found.begin != text.npos; found = First(text, at)) {
    absl::StrAppend(&out, text.substr(at, found.begin - at), kMask);
    at = found.end;
  }
  absl::StrAppend(&out, text.substr(at));
  return out;
}

Redactor::Redactor(std::vector<std::string> values) {
  for (std::string& value : values) {
    if (value.size() < kValueBytesMin) continue;
    std::string escaped = EscapeJson(value);
    if (escaped != value) values_.push_back(std::move(escaped));
    values_.push_back(std::move(value));
  }
  std::sort(values_.begin(), values_.end(),
            [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
}

std::string Redactor::Apply(absl::string_view text) const {
  std::string out = RedactSecrets(text);
  for (const std::string& value : values_) absl::StrReplaceAll({{value, kMask}}, &out);
  return out;
}

}  // namespace quantd
