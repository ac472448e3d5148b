// Text as Python's str sees it: the published scores were computed in Python, and a different idea
// of white space, lower case or a word moves them. Also the answer normalization and the token F1
// that SQuAD's and CoQA's scripts share (Rajpurkar et al. 2018, Reddy et al. 2019). Pure functions;
// invalid UTF-8 is passed through byte by byte.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd::engine {

// str.isspace() of one character.
bool PythonIsSpace(int32_t code_point);
// str.strip(), str.lstrip(), str.rstrip().
absl::string_view PythonStrip(absl::string_view text);
absl::string_view PythonStripLeft(absl::string_view text);
absl::string_view PythonStripRight(absl::string_view text);
// str.split().
std::vector<std::string> PythonSplit(absl::string_view text);
// str.lower(), with U+0130 and the final sigma.
std::string PythonLower(absl::string_view text);
// len(str).
int64_t CodePointCount(absl::string_view text);
// len(re.split(r"\s+", text)): also counts the empty strings at both ends.
int64_t PythonWordCount(absl::string_view text);

// Lower case; then without ASCII punctuation; then articles as words become spaces; then single
// spaces between words.
std::string NormalizeAnswer(absl::string_view text);
// Of the normalized texts' words as multisets; where one of them has no words: 1 if both have none.
double AnswerF1(absl::string_view gold, absl::string_view prediction);
// 1 where the normalized texts are equal.
double AnswerExact(absl::string_view gold, absl::string_view prediction);

}  // namespace quantd::engine
