// Oniguruma behind absl::Status.
#include "workers/engine/evaluation/answer_regex.h"

#include <oniguruma.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"

namespace quantd::engine {
namespace {

// Steps back within one search: a second. Answers are a few kilobytes.
constexpr unsigned long kRetryLimit = 20'000'000;
constexpr size_t kPatternBytesMax = 4096;

std::string Words(int code, OnigErrorInfo* info) {
  OnigUChar words[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int size = info == nullptr ? onig_error_code_to_str(words, code)
                                   : onig_error_code_to_str(words, code, info);
  return std::string(reinterpret_cast<char*>(words), static_cast<size_t>(size));
}

const OnigUChar* Bytes(absl::string_view text) {
  return reinterpret_cast<const OnigUChar*>(text.data());
}

struct Search {
  OnigRegion* region = onig_region_new();
  OnigMatchParam* limits = onig_new_match_param();
  Search() {
    onig_initialize_match_param(limits);
    onig_set_retry_limit_in_match_of_match_param(limits, kRetryLimit);
    onig_set_retry_limit_in_search_of_match_param(limits, kRetryLimit);
  }
  ~Search() {
    onig_region_free(region, 1);
    onig_free_match_param(limits);
  }
};

// Calls `found` for every match from left to right, an empty one once.
absl::Status ForEachMatch(regex_t* regex, absl::string_view text,
                          const std::function<void(const OnigRegion& region)>& found) {
  Search search;
  const OnigUChar* begin = Bytes(text);
  const OnigUChar* end = begin + text.size();
  for (size_t position = 0; position <= text.size();) {
    const int at = onig_search_with_param(regex, begin, end, begin + position, end, search.region,
                                          ONIG_OPTION_NONE, search.limits);
    if (at == ONIG_MISMATCH) break;
    if (at < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("a regular expression gave up on a text of ",
                                                       text.size(),
                                                       " bytes: ", Words(at, nullptr)));
    }
    found(*search.region);
    const auto last = static_cast<size_t>(search.region->end[0]);
    position = last;
    if (search.region->end[0] == search.region->beg[0]) {
      if (position >= text.size()) break;
      DecodeUtf8(text, &position);
    }
  }
  return absl::OkStatus();
}

}  // namespace

struct AnswerRegex::Compiled {
  regex_t* regex = nullptr;
  ~Compiled() {
    if (regex != nullptr) onig_free(regex);
  }
};

absl::StatusOr<AnswerRegex> AnswerRegex::Compile(absl::string_view pattern) {
  if (pattern.size() > kPatternBytesMax || !IsValidUtf8(pattern)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a regular expression must be UTF-8 of at most ", kPatternBytesMax, " bytes"));
  }
  auto compiled = std::make_shared<Compiled>();
  OnigErrorInfo info;
  const int code =
      onig_new(&compiled->regex, Bytes(pattern), Bytes(pattern) + pattern.size(),
               ONIG_OPTION_CAPTURE_GROUP, ONIG_ENCODING_UTF8, ONIG_SYNTAX_PYTHON, &info);
  if (code != ONIG_NORMAL) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", pattern, "\" is no regular expression: ", Words(code, &info)));
  }
  AnswerRegex regex;
  regex.compiled_ = std::move(compiled);
  return regex;
}

absl::StatusOr<std::vector<std::string>> AnswerRegex::FindAll(absl::string_view text) const {
  // The engine wants valid UTF-8.
  const std::string valid = ReplaceInvalidUtf8(text);
  std::vector<std::string> matches;
  const auto take = [&](const OnigRegion& region) {
    const auto group = [&](int i) {
      return region.beg[i] < 0 ? std::string()
                               : valid.substr(static_cast<size_t>(region.beg[i]),
                                              static_cast<size_t>(region.end[i] - region.beg[i]));
    };
    std::string match = region.num_regs > 1 ? "" : group(0);
    for (int i = 1; i < region.num_regs && match.empty(); ++i) match = group(i);
    matches.push_back(std::move(match));
  };
  const absl::Status status = ForEachMatch(compiled_->regex, valid, take);
  if (!status.ok()) return status;
  return matches;
}

absl::StatusOr<std::string> AnswerRegex::Remove(absl::string_view text) const {
  const std::string valid = ReplaceInvalidUtf8(text);
  std::string out;
  size_t copied = 0;
  const absl::Status status = ForEachMatch(compiled_->regex, valid, [&](const OnigRegion& region) {
    out.append(valid, copied, static_cast<size_t>(region.beg[0]) - copied);
    copied = static_cast<size_t>(region.end[0]);
  });
  if (!status.ok()) return status;
  out.append(valid, copied);
  return out;
}

}  // namespace quantd::engine
