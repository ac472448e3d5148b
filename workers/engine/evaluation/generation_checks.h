// Whether a generated text is the output of a working model: not empty, no loop, no gibberish, not
// a guess among all tokens. Pure functions of text and ids, tested on texts of broken models.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantd::engine {

struct GenerationFacts {
  std::vector<int64_t> ids;  // Without the end-of-text token.
  std::string text;
  bool ended = false;        // By an end-of-text token.
  double mean_log_prob = 0;  // Of the generated tokens by the model itself; NaN for broken logits.
  int64_t vocab_size = 0;
};

// Share of the n-grams (n = 3) that occurred before in the same sequence; 0 for short ones.
double RepetitionRatio(absl::Span<const int64_t> ids);

// Share of code points that no text has: U+FFFD, private use, unassigned controls.
double StrangeShare(absl::string_view text);

// Empty: nothing is wrong. Otherwise the first defect in words: "empty", "not finite: ...",
// "loop: ...", "gibberish: ...", "guessing: ...".
std::string FindDefect(const GenerationFacts& facts);

}  // namespace quantd::engine
