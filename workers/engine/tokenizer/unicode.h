// Character classes as the reference tokenizer library sees them. Its parts were made from
// different Unicode versions; each function follows the part that it stands for, on any system.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// Unicode White_Space.
bool IsWhitespace(uint32_t code_point);
// General category N.
bool IsNumeric(uint32_t code_point);
// General category P, or one of ASCII's 32 symbols.
bool IsPunctuation(uint32_t code_point);
// \w of the reference's Whitespace pre-tokenizer and of its single_word tokens.
bool IsWordCharacter(uint32_t code_point);
// What the StripAccents normalizer drops.
bool IsCombiningMark(uint32_t code_point);
// Whether the normalizer takes the character for one that never changes nor combines.
bool IsUnknownToNormalizer(uint32_t code_point);
// One character in lower case; U+0130 becomes two. Without regard to its neighbours.
void AppendLowercase(uint32_t code_point, std::string* out);

// The characters that a regex class (`name` as inside \p{...}; "w" and "d" for \w and \d) gained
// after Unicode 14, as the inside of a bracket expression: "\x{31350}-\x{323af}". Empty for an
// unknown name.
std::string NewClassMembers(absl::string_view name);

}  // namespace quantd
