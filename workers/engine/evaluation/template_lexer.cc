// One pass over the text; a tag's inside is cut into tokens at once.
#include "workers/engine/evaluation/template_lexer.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace quantd::engine {
namespace {

using Kind = TemplateToken::Kind;

// Longest first.
constexpr absl::string_view kOperators[] = {"==", "!=", "<=", ">=", "//", "**", "(", ")", "[",
                                            "]",  "{",  "}",  ",",  ":",  ".",  "|", "+", "-",
                                            "*",  "/",  "%",  "~",  "<",  ">",  "="};

absl::Status At(int line, absl::string_view words) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", words));
}

bool IsNameCharacter(char c) { return absl::ascii_isalnum(c) || c == '_'; }

// The content of a quoted string that starts at `*at`; moves behind it.
absl::StatusOr<std::string> LexString(absl::string_view text, size_t* at) {
  const char quote = text[(*at)++];
  std::string content;
  for (; *at < text.size(); ++*at) {
    const char c = text[*at];
    if (c == quote) {
      ++*at;
      return content;
    }
    if (c != '\\' || *at + 1 == text.size()) {
      content += c;
      continue;
    }
    const char next = text[++*at];
    switch (next) {
      case 'n':
        content += '\n';
        break;
      case 't':
        content += '\t';
        break;
      case 'r':
        content += '\r';
        break;
      case '\\':
      case '\'':
      case '"':
        content += next;
        break;
      default:
        content += '\\';
        content += next;
    }
  }
  return absl::InvalidArgumentError("a string is not closed");
}

absl::StatusOr<std::vector<TemplateToken>> LexTokens(absl::string_view text) {
  std::vector<TemplateToken> tokens;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (absl::ascii_isspace(c)) {
      ++at;
    } else if (c == '"' || c == '\'') {
      QD_ASSIGN_OR_RETURN(std::string content, LexString(text, &at));
      tokens.push_back({Kind::kString, std::move(content), nullptr});
    } else if (absl::ascii_isdigit(c)) {
      size_t end = at;
      while (end < text.size() && absl::ascii_isdigit(text[end])) ++end;
      const bool real =
          end + 1 < text.size() && text[end] == '.' && absl::ascii_isdigit(text[end + 1]);
      if (real) {
        ++end;
        while (end < text.size() && absl::ascii_isdigit(text[end])) ++end;
      }
      const absl::string_view digits = text.substr(at, end - at);
      int64_t whole = 0;
      double value = 0;
      if (real ? !absl::SimpleAtod(digits, &value) : !absl::SimpleAtoi(digits, &whole)) {
        return absl::InvalidArgumentError(absl::StrCat("the number ", digits, " is too large"));
      }
      tokens.push_back({Kind::kNumber, std::string(digits),
                        real ? nlohmann::json(value) : nlohmann::json(whole)});
      at = end;
    } else if (IsNameCharacter(c)) {
      size_t end = at;
      while (end < text.size() && IsNameCharacter(text[end])) ++end;
      tokens.push_back({Kind::kName, std::string(text.substr(at, end - at)), nullptr});
      at = end;
    } else {
      const auto* found = std::find_if(
          std::begin(kOperators), std::end(kOperators),
          [&](absl::string_view word) { return text.substr(at, word.size()) == word; });
      if (found == std::end(kOperators)) {
        return absl::InvalidArgumentError(
            absl::StrCat("the character '", text.substr(at, 1), "' is not understood"));
      }
      tokens.push_back({Kind::kOperator, std::string(*found), nullptr});
      at += found->size();
    }
  }
  tokens.emplace_back();
  return tokens;
}

// Where a tag that opens at `open` ends ("}}", "%}", "#}" with `close` as its first character), not
// counting what stands in strings; npos: nowhere.
size_t FindClose(absl::string_view text, size_t open, char close) {
  char quote = 0;
  for (size_t i = open + 2; i + 1 < text.size(); ++i) {
    const char c = text[i];
    if (quote != 0) {
      if (c == '\\') {
        ++i;
      } else if (c == quote) {
        quote = 0;
      }
    } else if (close != '#' && (c == '"' || c == '\'')) {
      quote = c;
    } else if (c == close && text[i + 1] == '}') {
      return i;
    }
  }
  return absl::string_view::npos;
}

// `text` without the blanks that stand between its last newline (or its start) and its end.
absl::string_view StripLineStart(absl::string_view text) {
  size_t end = text.size();
  while (end > 0 && (text[end - 1] == ' ' || text[end - 1] == '\t')) --end;
  return end == 0 || text[end - 1] == '\n' ? text.substr(0, end) : text;
}

}  // namespace

absl::StatusOr<std::vector<TemplatePiece>> LexTemplate(absl::string_view text,
                                                       const TemplateOptions& options) {
  std::vector<TemplatePiece> pieces;
  int line = 1;
  bool strip_next = false;    // The last tag ended with "-".
  bool newline_next = false;  // Its newline is dropped.
  size_t at = 0;
  while (at <= text.size()) {
    size_t open = at;
    while (open + 1 < text.size() &&
           !(text[open] == '{' &&
             (text[open + 1] == '{' || text[open + 1] == '%' || text[open + 1] == '#'))) {
      ++open;
    }
    const bool last = open + 1 >= text.size();
    absl::string_view plain = text.substr(at, last ? absl::string_view::npos : open - at);
    const int plain_line = line;
    line += static_cast<int>(std::count(plain.begin(), plain.end(), '\n'));
    if (strip_next) {
      plain = absl::StripLeadingAsciiWhitespace(plain);
    } else if (newline_next && !plain.empty() && plain[0] == '\n') {
      plain.remove_prefix(1);
    }
    const char kind = last ? 0 : text[open + 1];
    const char sign = open + 2 < text.size() ? text[open + 2] : 0;
    if (kind != 0 && sign == '-') {
      plain = absl::StripTrailingAsciiWhitespace(plain);
    } else if ((kind == '%' || kind == '#') && sign != '+' && options.lstrip_blocks) {
      plain = StripLineStart(plain);
    }
    if (!plain.empty())
      pieces.push_back({TemplatePiece::Kind::kText, plain_line, std::string(plain), {}});
    if (last) break;
    const size_t close = FindClose(text, open, kind == '{' ? '}' : kind);
    if (close == absl::string_view::npos) {
      return At(line, absl::StrCat("\"", text.substr(open, 2), "\" is not closed"));
    }
    absl::string_view inside = text.substr(open + 2, close - open - 2);
    strip_next = !inside.empty() && inside.back() == '-';
    newline_next = options.trim_blocks && kind != '{';
    if (kind != '#') {
      if (!inside.empty() && (inside[0] == '-' || inside[0] == '+')) inside.remove_prefix(1);
      if (!inside.empty() && (inside.back() == '-' || inside.back() == '+'))
        inside.remove_suffix(1);
      absl::StatusOr<std::vector<TemplateToken>> tokens = LexTokens(inside);
      if (!tokens.ok()) return At(line, tokens.status().message());
      pieces.push_back({kind == '{' ? TemplatePiece::Kind::kOutput : TemplatePiece::Kind::kBlock,
                        line, "", *std::move(tokens)});
    }
    line += static_cast<int>(std::count(inside.begin(), inside.end(), '\n'));
    at = close + 2;
  }
  return pieces;
}

}  // namespace quantd::engine
