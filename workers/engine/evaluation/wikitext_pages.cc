// Literal replacements in the reference's order, and a scanner in place of its regular expressions.
#include "workers/engine/evaluation/wikitext_pages.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/documents.h"
#include "workers/engine/evaluation/python_text.h"

namespace quantd::engine {
namespace {

struct Replacement {
  const char* from;
  const char* to;
};
constexpr Replacement kBefore[] = {{"s '", "s'"}, {" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."},
                                   {" : ", ": "}, {" ; ", "; "},  {" . ", ". "},  {" ! ", "! "},
                                   {" ? ", "? "}, {" , ", ", "}};
constexpr Replacement kAfter[] = {
    {"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="},  {" \xc2\xb0 ", "\xc2\xb0"},
    {" \n", "\n"},       {"\n ", "\n"},    {" N ", " 1 "}, {" 's", "'s"}};
constexpr absl::string_view kPairs[] = {"()", "[]", "{}", "\"\"", "''"};

std::string Apply(std::string text, absl::Span<const Replacement> rows) {
  for (const Replacement& row : rows) text = absl::StrReplaceAll(text, {{row.from, row.to}});
  return text;
}

// "( a )" becomes "(a)"; an opening without a closing one stays.
std::string Tighten(absl::string_view text, char open, char close) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const size_t begin = text.find(open, at);
    const size_t end = begin == absl::string_view::npos ? begin : text.find(close, begin + 1);
    if (end == absl::string_view::npos) break;
    absl::StrAppend(&out, text.substr(at, begin + 1 - at),
                    PythonStrip(text.substr(begin + 1, end - begin - 1)), text.substr(end, 1));
    at = end + 1;
  }
  absl::StrAppend(&out, text.substr(at));
  return out;
}

// " = Title = ", but not " = = Section = = ".
bool IsTitle(absl::string_view line) {
  const std::string joined =
      absl::StrReplaceAll(absl::StrReplaceAll(line, {{"= = =", "==="}}), {{"= =", "=="}});
  const absl::string_view stripped = PythonStrip(joined);
  return absl::StartsWith(stripped, "= ") && absl::EndsWith(stripped, " =");
}

}  // namespace

absl::StatusOr<std::vector<std::string>> SplitWikitextPages(absl::string_view text) {
  std::vector<std::string> pages;
  if (absl::StartsWith(PythonStripLeft(text), "{")) {
    QD_ASSIGN_OR_RETURN(const std::vector<nlohmann::json> rows,
                        ParseTaskDocuments("rows", text, "pages"));
    for (const nlohmann::json& row : rows) {
      if (!row.contains("page") || !row["page"].is_string()) {
        return absl::DataLossError("field \"page\" must be a string");
      }
      pages.push_back(row["page"]);
    }
    return pages;
  }
  std::vector<absl::string_view> lines;
  const auto flush = [&] {
    std::string page = absl::StrJoin(lines, "\n");
    if (!PythonStrip(page).empty()) pages.push_back(std::move(page));
    lines.clear();
  };
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (IsTitle(line)) flush();
    lines.push_back(line);
  }
  flush();
  if (pages.empty()) return absl::DataLossError("there are no pages in it");
  return pages;
}

std::string DetokenizeWikitext(absl::string_view page) {
  std::string text = Apply(std::string(page), kBefore);
  for (const absl::string_view pair : kPairs) text = Tighten(text, pair[0], pair[1]);
  return Apply(std::move(text), kAfter);
}

std::vector<Sequence> RollingWindows(const std::vector<int64_t>& ids, int64_t prefix,
                                     int64_t window) {
  std::vector<Sequence> sequences;
  const auto size = static_cast<int64_t>(ids.size());
  for (int64_t first = 0; first < size; first += window) {
    Sequence& sequence = sequences.emplace_back();
    const int64_t last = std::min(first + window, size);
    sequence.scored = last - first;
    if (first == 0) {
      sequence.ids = {prefix};
      sequence.ids.insert(sequence.ids.end(), ids.begin(), ids.begin() + last);
    } else {
      sequence.ids.assign(ids.begin() + last - window - 1, ids.begin() + last);
    }
  }
  return sequences;
}

}  // namespace quantd::engine
