// The three known protocols are rows; single options override a row.
//
// "papers" is what GPTQ, AWQ and their successors print for WikiText-2: rows of the data set joined
// by an empty line, the tokenizer's own BOS once at the start, windows of 2048 without overlap, the
// tail dropped. It is not comparable with the other two.
#include "workers/engine/evaluation/windows.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/parquet/parquet.h"

namespace quantd::engine {
namespace {

// WikiText-103's largest split is 540 MB; more does not change a perplexity.
constexpr int64_t kTextBytesMax = int64_t{1} << 30;
// Used by the default protocol where the model allows it.
constexpr int64_t kWindowDefault = 2048;

struct Protocol {
  const char* name;
  int64_t window;  // 0: kWindowDefault, at most the model's maximum.
  int64_t max_tokens;
  const char* bos;
  const char* join;
};

constexpr Protocol kProtocols[] = {
    {"default", 0, 0, "tokenizer", "whole"},
    {"papers", 2048, 0, "tokenizer", "rows"},
    {"windows512", 512, 120000, "none", "whole"},
};

struct Rules {
  const Protocol* protocol = nullptr;
  int64_t window = 0;
  int64_t stride = 0;
  int64_t max_tokens = 0;
  std::string bos;
  std::string join;
};

absl::StatusOr<Rules> ResolveRules(const nlohmann::json& options, int64_t positions_max) {
  Rules rules;
  for (const Protocol& protocol : kProtocols) {
    if (options["protocol"] == protocol.name) rules.protocol = &protocol;
  }
  rules.window = options["window"].get<int64_t>();
  if (rules.window == 0) rules.window = rules.protocol->window;
  if (rules.window == 0) {
    rules.window = positions_max > 0 ? std::min(kWindowDefault, positions_max) : kWindowDefault;
  }
  if (positions_max > 0 && rules.window > positions_max) {
    return absl::InvalidArgumentError(absl::StrCat("option \"window\" is ", rules.window,
                                                   "; the model was made for at most ",
                                                   positions_max, " positions"));
  }
  rules.stride = options["stride"].get<int64_t>();
  if (rules.stride == 0) rules.stride = rules.window;
  if (rules.stride > rules.window) {
    return absl::InvalidArgumentError(absl::StrCat("option \"stride\" is ", rules.stride,
                                                   "; at most the window of ", rules.window,
                                                   " is possible, or text would be left out"));
  }
  rules.max_tokens = options["max_tokens"].get<int64_t>();
  if (rules.max_tokens == 0) rules.max_tokens = rules.protocol->max_tokens;
  rules.bos = options["bos"].get<std::string>();
  if (rules.bos == "protocol") rules.bos = rules.protocol->bos;
  rules.join = options["join"].get<std::string>();
  if (rules.join == "protocol") rules.join = rules.protocol->join;
  return rules;
}

// The Hub's data set has a row for every line, an empty one for a blank line; the papers put "\n\n"
// between rows, whose own line ends stay.
std::string JoinRows(absl::string_view text) {
  std::vector<std::string> rows;
  std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  const bool ends_with_newline = !lines.empty() && lines.back().empty();
  if (ends_with_newline) lines.pop_back();
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool blank = absl::StripAsciiWhitespace(lines[i]).empty();
    const bool has_newline = i + 1 < lines.size() || ends_with_newline;
    rows.push_back(blank ? "" : absl::StrCat(lines[i], has_newline ? "\n" : ""));
  }
  return absl::StrJoin(rows, "\n\n");
}

absl::StatusOr<std::vector<int64_t>> TokenizeText(const LoadedModel& model, const Rules& rules,
                                                  const std::string& text) {
  const bool special = rules.bos == "tokenizer";
  QD_ASSIGN_OR_RETURN(std::vector<int64_t> ids, model.Encode(text, special));
  if (rules.bos == "first" || rules.bos == "every") {
    if (!model.BosId()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "option \"bos\" is \"", rules.bos, "\", but the model names no begin-of-text token"));
    }
    if (rules.bos == "first") ids.insert(ids.begin(), *model.BosId());
  }
  if (rules.max_tokens > 0 && static_cast<int64_t>(ids.size()) > rules.max_tokens) {
    ids.resize(static_cast<size_t>(rules.max_tokens));
  }
  return ids;
}

}  // namespace

std::vector<OptionInfo> WindowOptions() {
  return {
      {"protocol",
       OptionType::kString,
       "default",
       {"default", "papers", "windows512"},
       {},
       {},
       "Settings under one name: \"papers\" as GPTQ and AWQ print WikiText-2 (rows joined by empty "
       "lines, window 2048); \"windows512\" 512-token windows of the first 120,000 tokens without "
       "BOS."},
      {"window",
       OptionType::kInt,
       0,
       {},
       0,
       {},
       "Tokens in a window; 0: the protocol's, or 2048, or the model's maximum."},
      {"stride",
       OptionType::kInt,
       0,
       {},
       0,
       {},
       "Tokens from one window's start to the next; overlap is context and scored once. 0: the "
       "window."},
      {"max_tokens", OptionType::kInt, 0, {}, 0, {}, "Only the first so many tokens; 0: all."},
      {"bos",
       OptionType::kString,
       "protocol",
       {"protocol", "tokenizer", "none", "first", "every"},
       {},
       {},
       "Begin-of-text token: as the tokenizer does by itself, never, once at the start, or in "
       "every "
       "window."},
      {"join",
       OptionType::kString,
       "protocol",
       {"protocol", "whole", "rows"},
       {},
       {},
       "The file as it is, or its lines as rows joined by empty lines."},
  };
}

absl::StatusOr<TextWindows> CutWindows(const LoadedModel& model, const std::string& path,
                                       const nlohmann::json& options, int limit) {
  QD_ASSIGN_OR_RETURN(const Rules rules, ResolveRules(options, model.PositionsMax()));
  QD_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kTextBytesMax));
  if (IsParquet(text)) {
    QD_ASSIGN_OR_RETURN(text, ParquetToText(text, "text"), path);
  }
  if (!IsValidUtf8(text)) {
    return absl::DataLossError(absl::StrCat(path, ": not valid UTF-8 text"));
  }
  TextWindows result;
  result.digest = Sha256Hex(text);
  if (rules.join == "rows") text = JoinRows(text);
  QD_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, TokenizeText(model, rules, text),
                      "tokenizing ", path);
  const bool every = rules.bos == "every";
  // With a BOS in every window one place less is left for text.
  const int64_t span = rules.window - (every ? 1 : 0);
  const int64_t stride = std::min(rules.stride, span);
  const auto size = static_cast<int64_t>(ids.size());
  if (span < 2 || size < span) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has ", size,
                                                   " tokens, fewer than one window of ", span,
                                                   "; give more text or a smaller window"));
  }
  std::vector<int64_t> scored;
  for (int64_t start = 0; start + span <= size; start += stride) {
    if (limit > 0 && static_cast<int64_t>(result.windows.size()) == limit) break;
    Sequence window;
    if (every) window.ids.push_back(*model.BosId());
    window.ids.insert(window.ids.end(), ids.begin() + start, ids.begin() + start + span);
    const bool first = start == 0;
    // The first token of the text has no context to be predicted from, unless a BOS is before it.
    window.scored = first || stride == span ? span - (every ? 0 : 1) : stride;
    scored.insert(scored.end(), window.ids.end() - window.scored, window.ids.end());
    result.windows.push_back(std::move(window));
  }
  result.scored_tokens = static_cast<int64_t>(scored.size());
  const std::string scored_text = model.Decode(scored);
  result.scored_bytes = static_cast<int64_t>(scored_text.size());
  const size_t slash = path.rfind('/');
  result.protocol = absl::StrCat(path.substr(slash == std::string::npos ? 0 : slash + 1),
                                 " sha256:", result.digest.substr(0, 12), " join=", rules.join,
                                 " window=", rules.window, " stride=", stride, " bos=", rules.bos,
                                 " max_tokens=", rules.max_tokens,
                                 " windows=", result.windows.size(), " dtype=", model.DtypeName());
  return result;
}

int64_t WindowsPerPart(const LoadedModel& model) {
  return model.model->decoder().device().is_cpu() ? 16 : 64;
}

}  // namespace quantd::engine
