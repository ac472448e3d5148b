// Oniguruma behind absl::Status.
#include "workers/engine/tokenizer/pattern.h"

#include <oniguruma.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/utf8.h"
#include "workers/engine/tokenizer/unicode.h"

namespace quantd {
namespace {

// The longest split pattern of a published model has about 2,000 bytes.
constexpr size_t kRegexLimitBytes = 64 << 10;
// Steps back within one match; Oniguruma's own default. A run of that many blanks reaches it.
constexpr unsigned long kRetryLimit = 10'000'000;
// Steps back over all starting points of one search: some seconds.
constexpr unsigned long kSearchRetryLimit = 200'000'000;
// Entries of about 40 bytes each.
constexpr unsigned int kStackLimit = 8'000'000;

std::string OnigWords(int code, OnigErrorInfo* info) {
  OnigUChar words[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int size = info == nullptr ? onig_error_code_to_str(words, code)
                                   : onig_error_code_to_str(words, code, info);
  return std::string(reinterpret_cast<char*>(words), size);
}

const OnigUChar* Bytes(absl::string_view text) {
  return reinterpret_cast<const OnigUChar*>(text.data());
}

struct MatchParameters {
  OnigMatchParam* value = onig_new_match_param();
  MatchParameters() {
    onig_initialize_match_param(value);
    onig_set_retry_limit_in_match_of_match_param(value, kRetryLimit);
    onig_set_retry_limit_in_search_of_match_param(value, kSearchRetryLimit);
    onig_set_match_stack_limit_size_of_match_param(value, kStackLimit);
  }
  ~MatchParameters() { onig_free_match_param(value); }
};

struct Region {
  OnigRegion* value = onig_region_new();
  ~Region() { onig_region_free(value, 1); }
};

}  // namespace

struct Pattern::Compiled {
  regex_t* regex = nullptr;
  ~Compiled() {
    if (regex != nullptr) onig_free(regex);
  }
};

std::string CompleteUnicodeClasses(absl::string_view regex) {
  std::string out;
  for (size_t i = 0; i < regex.size(); ++i) {
    if (regex[i] != '\\' || i + 1 == regex.size()) {
      out += regex[i];
      continue;
    }
    const char kind = regex[i + 1];
    absl::string_view whole = regex.substr(i, 2);
    std::string name;
    bool negated = kind == 'W' || kind == 'D' || kind == 'P';
    if (kind == 'w' || kind == 'W' || kind == 'd' || kind == 'D') {
      name = kind == 'w' || kind == 'W' ? "w" : "d";
    } else if ((kind == 'p' || kind == 'P') && i + 2 < regex.size() && regex[i + 2] == '{') {
      const size_t close = regex.find('}', i);
      if (close != absl::string_view::npos) {
        whole = regex.substr(i, close + 1 - i);
        name = std::string(regex.substr(i + 3, close - i - 3));
        if (!name.empty() && name[0] == '^') {
          negated = !negated;
          name.erase(0, 1);
        }
      }
    }
    const std::string members = NewClassMembers(name);
    if (members.empty()) {
      absl::StrAppend(&out, whole);
    } else {
      const bool property = kind == 'p' || kind == 'P';
      absl::StrAppend(&out, negated ? "[^" : "[",
                      property ? absl::StrCat("\\p{", name, "}") : absl::StrCat("\\", name),
                      members, "]");
    }
    i += whole.size() - 1;
  }
  return out;
}

absl::StatusOr<Pattern> Pattern::Literal(absl::string_view text) {
  // The reference matches an empty literal between all characters, as the empty regex does.
  if (text.empty()) return Regex("");
  Pattern pattern;
  pattern.literal_ = std::string(text);
  return pattern;
}

absl::StatusOr<Pattern> Pattern::Regex(absl::string_view regex) {
  if (regex.size() > kRegexLimitBytes) {
    return absl::InvalidArgumentError(absl::StrCat("regex of ", FormatBytes(regex.size()),
                                                   ": at most ", FormatBytes(kRegexLimitBytes)));
  }
  static const int initialized = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    return onig_initialize(encodings, 1);
  }();
  if (initialized != ONIG_NORMAL) return absl::InternalError(OnigWords(initialized, nullptr));

  const std::string complete = CompleteUnicodeClasses(regex);
  auto compiled = std::make_shared<Compiled>();
  OnigErrorInfo info;
  const int code = onig_new(&compiled->regex, Bytes(complete), Bytes(complete) + complete.size(),
                            ONIG_OPTION_NONE, ONIG_ENCODING_UTF8, ONIG_SYNTAX_RUBY, &info);
  if (code != ONIG_NORMAL) {
    compiled->regex = nullptr;
    return absl::InvalidArgumentError(
        absl::StrCat("regex \"", regex.substr(0, 200),
                     "\" is not accepted: ", ReplaceInvalidUtf8(OnigWords(code, &info))));
  }
  Pattern pattern;
  pattern.compiled_ = std::move(compiled);
  return pattern;
}

absl::StatusOr<std::vector<PatternSpan>> Pattern::FindAll(absl::string_view text) const {
  if (text.empty()) return std::vector<PatternSpan>{{0, 0, false}};
  if (compiled_ != nullptr) return FindAllRegex(text);
  std::vector<PatternSpan> spans;
  size_t done = 0;
  for (size_t at; (at = text.find(literal_, done)) != absl::string_view::npos;) {
    if (done != at) spans.push_back({done, at, false});
    done = at + literal_.size();
    spans.push_back({at, done, true});
  }
  if (done != text.size()) spans.push_back({done, text.size(), false});
  return spans;
}

absl::StatusOr<std::vector<PatternSpan>> Pattern::FindAllRegex(absl::string_view text) const {
  std::vector<PatternSpan> spans;
  Region region;
  MatchParameters parameters;
  const OnigUChar* end = Bytes(text) + text.size();
  size_t position = 0;
  size_t done = 0;
  ptrdiff_t last_match_end = -1;
  while (position <= text.size()) {
    const int found =
        onig_search_with_param(compiled_->regex, Bytes(text), end, Bytes(text) + position, end,
                               region.value, ONIG_OPTION_NONE, parameters.value);
    if (found == ONIG_MISMATCH) break;
    if (found < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("a regex gave up on a text of ",
                                                       FormatBytes(text.size()), " at byte ",
                                                       position, ": ", OnigWords(found, nullptr)));
    }
    const size_t match_begin = region.value->beg[0];
    const size_t match_end = region.value->end[0];
    if (match_begin == match_end && static_cast<ptrdiff_t>(match_end) == last_match_end) {
      // An empty match right after a match would be found for ever: step over one character.
      if (position >= text.size()) break;
      DecodeUtf8(text, &position);
      continue;
    }
    position = match_end;
    last_match_end = match_end;
    if (done != match_begin) spans.push_back({done, match_begin, false});
    spans.push_back({match_begin, match_end, true});
    done = match_end;
  }
  if (done != text.size()) spans.push_back({done, text.size(), false});
  return spans;
}

}  // namespace quantd
