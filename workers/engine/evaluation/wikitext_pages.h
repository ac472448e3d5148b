// WikiText's raw text as pages and as plain text, and the windows in which a page is scored: the
// rules of lm-evaluation-harness's wikitext task, on which its numbers depend.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/evaluation/scorer.h"

namespace quantd::engine {

// Pages of a raw file, each from its title on; or the "page" of every line of a JSON-lines file.
// DataLoss where there are none.
absl::StatusOr<std::vector<std::string>> SplitWikitextPages(absl::string_view text);

// Without the blanks and marks that WikiText puts around punctuation, numbers and quotes.
std::string DetokenizeWikitext(absl::string_view page);

// Every token of `ids` scored once: the first window behind `prefix`, the next ones behind one
// token of context, the last one moved back so that it has `window` tokens of input.
std::vector<Sequence> RollingWindows(const std::vector<int64_t>& ids, int64_t prefix,
                                     int64_t window);

}  // namespace quantd::engine
