// The thresholds lie between what healthy small base models write under greedy decoding and what
// random weights, 2-bit rounding and zeroed layers make of them (generation_checks_test.cc and
// sanity_test.cc measure both sides).
#include "workers/engine/evaluation/generation_checks.h"

#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"

namespace quantd::engine {
namespace {

constexpr size_t kGram = 3;
// Greedy base models repeat a phrase now and then; a stuck one repeats nothing else: a period of 8
// tokens over 48 gives 0.83.
constexpr double kRepetitionMax = 0.75;
// Below this many tokens a repetition says nothing ("4 4").
constexpr size_t kLoopTokensMin = 16;
// One odd character can be a real emoji cut in half; a tenth of them is noise.
constexpr double kStrangeMax = 0.1;
// A model that guesses among all V tokens has a mean log-probability of -ln V; a working one is far
// above even where it is unsure. Half way lies between.
constexpr double kGuessingShare = 0.5;

}  // namespace

double RepetitionRatio(absl::Span<const int64_t> ids) {
  if (ids.size() < kGram + 1) return 0;
  std::set<std::vector<int64_t>> seen;
  int64_t repeated = 0;
  const size_t grams = ids.size() - kGram + 1;
  for (size_t i = 0; i < grams; ++i) {
    if (!seen.emplace(ids.begin() + i, ids.begin() + i + kGram).second) ++repeated;
  }
  return static_cast<double>(repeated) / static_cast<double>(grams);
}

double StrangeShare(absl::string_view text) {
  int64_t strange = 0, all = 0;
  for (size_t position = 0; position < text.size(); ++all) {
    const int32_t c = DecodeUtf8(text, &position);
    const bool control =
        (c < 0x20 && c != '\n' && c != '\t' && c != '\r') || (c >= 0x7f && c < 0xa0);
    const bool private_use = (c >= 0xe000 && c <= 0xf8ff) || c >= 0xf0000;
    if (c < 0 || c == 0xfffd || control || private_use) ++strange;
  }
  return all == 0 ? 0 : static_cast<double>(strange) / static_cast<double>(all);
}

std::string FindDefect(const GenerationFacts& facts) {
  if (!std::isfinite(facts.mean_log_prob)) return "not finite: the logits are NaN or infinite";
  if (absl::StripAsciiWhitespace(facts.text).empty()) return "empty: nothing but white space";
  if (const double strange = StrangeShare(facts.text); strange > kStrangeMax) {
    return absl::StrFormat("gibberish: %.0f %% of the characters are invalid or not printable",
                           100 * strange);
  }
  if (const double uniform = -std::log(static_cast<double>(facts.vocab_size));
      facts.mean_log_prob < kGuessingShare * uniform) {
    return absl::StrFormat(
        "guessing: mean log-probability of its own words is %.2f, chance among all is %.2f",
        facts.mean_log_prob, uniform);
  }
  if (const double repeated = RepetitionRatio(facts.ids);
      facts.ids.size() >= kLoopTokensMin && repeated > kRepetitionMax) {
    return absl::StrFormat("loop: %.0f %% of its word triples were there before", 100 * repeated);
  }
  return "";
}

}  // namespace quantd::engine
