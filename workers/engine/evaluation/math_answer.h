// The final answer of a solution in words and formulas, and its value: what a mathematics task
// compares. The rules are plain text rules, not algebra: x = 2 and 2 are equal, (x+1)^2 and its
// expansion are not.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd::engine {

// In this order: the last \boxed{...}, what follows the last "####", what follows the last "answer
// is", the last number. Nothing where there is none of them.
std::optional<std::string> ExtractMathAnswer(absl::string_view output);

// One spelling for one answer: without blanks, $, \left, \right, \!, \text{...}, units of money and
// per cent, thousands' commas and a final dot; \dfrac and \tfrac as \frac; "x=" before a single
// value and a decimal's trailing zeros are dropped.
std::string NormalizeMathAnswer(absl::string_view answer);

// The value of a whole number, a decimal, a/b or \frac{a}{b}; nothing for anything else.
std::optional<double> MathValue(absl::string_view answer);

}  // namespace quantd::engine
