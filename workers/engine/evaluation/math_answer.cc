// Plain scanning; no regular expression is needed.
#include "workers/engine/evaluation/math_answer.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "workers/engine/evaluation/python_text.h"

namespace quantd::engine {
namespace {

// What stands in the braces that open at text[open]; nothing where they do not close.
std::optional<std::string> Braced(absl::string_view text, size_t open) {
  int depth = 0;
  for (size_t i = open; i < text.size(); ++i) {
    if (text[i] == '{') ++depth;
    if (text[i] == '}' && --depth == 0) return std::string(text.substr(open + 1, i - open - 1));
  }
  return std::nullopt;
}

std::string FirstLine(absl::string_view text) {
  return std::string(PythonStrip(text.substr(0, text.find('\n'))));
}

// The last run of digits with an optional sign, commas, point and fraction.
std::optional<std::string> LastNumber(absl::string_view text) {
  size_t end = text.size();
  while (end > 0 && !absl::ascii_isdigit(text[end - 1])) --end;
  if (end == 0) return std::nullopt;
  size_t begin = end;
  const auto inside = [&](size_t i) {
    const char c = text[i];
    if (absl::ascii_isdigit(c)) return true;
    return (c == ',' || c == '.' || c == '/') && i > 0 && absl::ascii_isdigit(text[i - 1]);
  };
  while (begin > 0 && inside(begin - 1)) --begin;
  // A minus is a sign where no operand stands before it.
  if (begin > 0 && text[begin - 1] == '-' &&
      (begin == 1 || !absl::ascii_isalnum(text[begin - 2]))) {
    --begin;
  }
  return std::string(text.substr(begin, end - begin));
}

void EraseCommand(const char* command, std::string* text) {
  // \text{cm} goes with its content.
  for (size_t at = text->find(command); at != std::string::npos; at = text->find(command)) {
    const size_t open = at + std::string(command).size();
    const std::optional<std::string> inside =
        open < text->size() && (*text)[open] == '{' ? Braced(*text, open) : std::nullopt;
    text->erase(at, std::string(command).size() + (inside ? inside->size() + 2 : 0));
  }
}

std::optional<double> PlainNumber(absl::string_view text) {
  if (text.empty()) return std::nullopt;
  for (const char c : text) {
    if (!absl::ascii_isdigit(c) && c != '.' && c != '-' && c != '+') return std::nullopt;
  }
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<double> Quotient(absl::string_view above, absl::string_view below) {
  const std::optional<double> a = PlainNumber(above), b = PlainNumber(below);
  if (!a || !b || *b == 0) return std::nullopt;
  return *a / *b;
}

}  // namespace

std::optional<std::string> ExtractMathAnswer(absl::string_view output) {
  if (const size_t at = output.rfind("\\boxed{"); at != absl::string_view::npos) {
    if (std::optional<std::string> inside = Braced(output, at + 6)) return inside;
  }
  if (const size_t at = output.rfind("####"); at != absl::string_view::npos) {
    if (std::string line = FirstLine(output.substr(at + 4)); !line.empty()) return line;
  }
  if (const size_t at = output.rfind("answer is"); at != absl::string_view::npos) {
    std::string line = FirstLine(output.substr(at + 9));
    if (absl::StartsWith(line, ":")) line = std::string(PythonStrip(line.substr(1)));
    if (!line.empty()) return line;
  }
  return LastNumber(output);
}

std::string NormalizeMathAnswer(absl::string_view answer) {
  std::string text(answer);
  EraseCommand("\\text", &text);
  EraseCommand("\\mathrm", &text);
  text = absl::StrReplaceAll(text, {{"\\dfrac", "\\frac"},
                                    {"\\tfrac", "\\frac"},
                                    {"\\left", ""},
                                    {"\\right", ""},
                                    {"\\!", ""},
                                    {"\\,", ""},
                                    {"\\ ", ""},
                                    {"\\$", ""},
                                    {"$", ""},
                                    {"\\%", ""},
                                    {"%", ""},
                                    {"^\\circ", ""},
                                    {"^{\\circ}", ""},
                                    {"{,}", ","}});
  std::string compact;
  for (const char c : text) {
    if (!absl::ascii_isspace(static_cast<unsigned char>(c))) compact += c;
  }
  while (!compact.empty() && (compact.back() == '.' || compact.back() == ',')) compact.pop_back();
  // "x=5" is 5; "a=1,b=2" stays.
  if (compact.size() > 2 && absl::ascii_isalpha(static_cast<unsigned char>(compact[0])) &&
      compact[1] == '=' && compact.find('=', 2) == std::string::npos) {
    compact.erase(0, 2);
  }
  // Commas between groups of three digits.
  std::string plain;
  for (size_t i = 0; i < compact.size(); ++i) {
    const auto digits = [&](size_t from, size_t count) {
      for (size_t k = from; k < from + count; ++k) {
        if (k >= compact.size() || !absl::ascii_isdigit(static_cast<unsigned char>(compact[k]))) {
          return false;
        }
      }
      return true;
    };
    const bool separator = compact[i] == ',' && i > 0 && digits(i - 1, 1) && digits(i + 1, 3) &&
                           !digits(i + 1, 4) && compact[0] != '(' && compact[0] != '[' &&
                           compact[0] != '{' && compact[0] != '\\';
    if (!separator) plain += compact[i];
  }
  if (PlainNumber(plain) && absl::StrContains(plain, '.')) {
    while (plain.back() == '0') plain.pop_back();
    if (plain.back() == '.') plain.pop_back();
  }
  if (absl::StartsWith(plain, "+")) plain.erase(0, 1);
  if (absl::StartsWith(plain, ".")) plain.insert(0, "0");
  return plain;
}

std::optional<double> MathValue(absl::string_view answer) {
  std::string text = NormalizeMathAnswer(answer);
  double sign = 1;
  if (absl::StartsWith(text, "-\\frac")) {
    sign = -1;
    text.erase(0, 1);
  }
  if (absl::StartsWith(text, "\\frac{")) {
    const std::optional<std::string> above = Braced(text, 5);
    if (!above) return std::nullopt;
    const size_t next = 5 + above->size() + 2;
    if (next >= text.size() || text[next] != '{') return std::nullopt;
    const std::optional<std::string> below = Braced(text, next);
    if (!below || next + below->size() + 2 != text.size()) return std::nullopt;
    const std::optional<double> value = Quotient(*above, *below);
    if (!value) return std::nullopt;
    return sign * *value;
  }
  if (const size_t slash = text.find('/'); slash != std::string::npos) {
    return Quotient(absl::string_view(text).substr(0, slash),
                    absl::string_view(text).substr(slash + 1));
  }
  return PlainNumber(text);
}

}  // namespace quantd::engine
