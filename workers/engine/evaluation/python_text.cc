// Character classes by Unicode's general category (utf8proc), which is what Python's are made of.
#include "workers/engine/evaluation/python_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/utf8.h"

namespace quantd::engine {
namespace {

constexpr absl::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
constexpr int32_t kCapitalSigma = 0x3a3;
constexpr int32_t kFinalSigma = 0x3c2;
constexpr int32_t kCapitalDottedI = 0x130;

// \w: str.isalnum() or '_'.
bool IsWord(int32_t c) {
  if (c == '_') return true;
  if (c < 0) return false;
  const utf8proc_category_t category = utf8proc_category(c);
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
         (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

bool IsCased(int32_t c) {
  if (c < 0) return false;
  const utf8proc_category_t category = utf8proc_category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
}

// What the rule for the final sigma looks past.
bool IsCaseIgnorable(int32_t c) {
  if (c < 0) return false;
  constexpr absl::string_view kAscii = "'.:^`";
  if (c < 0x80) return absl::StrContains(kAscii, static_cast<char>(c));
  const utf8proc_category_t category = utf8proc_category(c);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
         category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
         category == UTF8PROC_CATEGORY_SK || c == 0xb7 || c == 0x2019 || c == 0x2018;
}

std::vector<int32_t> Decode(absl::string_view text) {
  std::vector<int32_t> points;
  for (size_t position = 0; position < text.size();) {
    points.push_back(DecodeUtf8(text, &position));
  }
  return points;
}

bool IsFinalSigma(const std::vector<int32_t>& points, size_t at) {
  size_t before = at;
  while (before > 0 && IsCaseIgnorable(points[before - 1])) --before;
  if (before == 0 || !IsCased(points[before - 1])) return false;
  size_t after = at + 1;
  while (after < points.size() && IsCaseIgnorable(points[after])) ++after;
  return after == points.size() || !IsCased(points[after]);
}

// "a", "an" or "the" between word borders becomes a space.
std::string DropArticles(absl::string_view text) {
  std::string out;
  size_t word = 0;
  const auto flush = [&](size_t end) {
    const absl::string_view found = text.substr(word, end - word);
    if (found == "a" || found == "an" || found == "the") {
      out += ' ';
    } else {
      absl::StrAppend(&out, found);
    }
  };
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    const int32_t c = DecodeUtf8(text, &position);
    if (IsWord(c)) continue;
    flush(start);
    absl::StrAppend(&out, text.substr(start, position - start));
    word = position;
  }
  flush(text.size());
  return out;
}

}  // namespace

bool PythonIsSpace(int32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

absl::string_view PythonStripLeft(absl::string_view text) {
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    if (!PythonIsSpace(DecodeUtf8(text, &position))) return text.substr(start);
  }
  return "";
}

absl::string_view PythonStripRight(absl::string_view text) {
  size_t end = 0;
  for (size_t position = 0; position < text.size();) {
    if (!PythonIsSpace(DecodeUtf8(text, &position))) end = position;
  }
  return text.substr(0, end);
}

absl::string_view PythonStrip(absl::string_view text) {
  return PythonStripRight(PythonStripLeft(text));
}

std::vector<std::string> PythonSplit(absl::string_view text) {
  std::vector<std::string> words;
  bool inside = false;
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    if (PythonIsSpace(DecodeUtf8(text, &position))) {
      inside = false;
      continue;
    }
    if (!inside) words.emplace_back();
    inside = true;
    absl::StrAppend(&words.back(), text.substr(start, position - start));
  }
  return words;
}

std::string PythonLower(absl::string_view text) {
  const bool ascii = std::all_of(text.begin(), text.end(),
                                 [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (ascii) return absl::AsciiStrToLower(text);
  const std::vector<int32_t> points = Decode(text);
  std::string out;
  size_t index = 0;
  for (size_t position = 0; position < text.size(); ++index) {
    const size_t start = position;
    const int32_t c = DecodeUtf8(text, &position);
    if (c < 0) {
      absl::StrAppend(&out, text.substr(start, position - start));
    } else if (c == kCapitalDottedI) {
      AppendUtf8('i', &out);
      AppendUtf8(0x307, &out);
    } else if (c == kCapitalSigma && IsFinalSigma(points, index)) {
      AppendUtf8(kFinalSigma, &out);
    } else {
      AppendUtf8(static_cast<uint32_t>(utf8proc_tolower(c)), &out);
    }
  }
  return out;
}

int64_t CodePointCount(absl::string_view text) {
  int64_t count = 0;
  for (size_t position = 0; position < text.size(); ++count) DecodeUtf8(text, &position);
  return count;
}

int64_t PythonWordCount(absl::string_view text) {
  int64_t separators = 0;
  bool inside = false;
  for (size_t position = 0; position < text.size();) {
    const bool space = PythonIsSpace(DecodeUtf8(text, &position));
    separators += space && !inside ? 1 : 0;
    inside = space;
  }
  return separators + 1;
}

std::string NormalizeAnswer(absl::string_view text) {
  std::string plain;
  for (const char c : PythonLower(text)) {
    if (!absl::StrContains(kPunctuation, c)) plain += c;
  }
  return absl::StrJoin(PythonSplit(DropArticles(plain)), " ");
}

double AnswerExact(absl::string_view gold, absl::string_view prediction) {
  return NormalizeAnswer(gold) == NormalizeAnswer(prediction) ? 1 : 0;
}

double AnswerF1(absl::string_view gold, absl::string_view prediction) {
  const std::vector<std::string> wanted = PythonSplit(NormalizeAnswer(gold));
  const std::vector<std::string> given = PythonSplit(NormalizeAnswer(prediction));
  if (wanted.empty() || given.empty()) return wanted.empty() && given.empty() ? 1 : 0;
  std::map<std::string, int> counts;
  for (const std::string& word : wanted) ++counts[word];
  int same = 0;
  for (const std::string& word : given) same += counts[word]-- > 0 ? 1 : 0;
  if (same == 0) return 0;
  const double precision = 1.0 * same / static_cast<double>(given.size());
  const double recall = 1.0 * same / static_cast<double>(wanted.size());
  return (2 * precision * recall) / (precision + recall);
}

}  // namespace quantd::engine
