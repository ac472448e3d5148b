// UTF-8 (RFC 3629): validity and decoding, shared by the tokenizer, the parsers and the path
// checks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd {

// No overlong forms, no surrogates, nothing above U+10FFFF.
bool IsValidUtf8(absl::string_view text);

// Decodes the code point at `*position` and moves past it. Returns -1 (and moves one byte) where
// the bytes are not valid UTF-8. `*position` must be inside `text`.
int32_t DecodeUtf8(absl::string_view text, size_t* position);

void AppendUtf8(uint32_t code_point, std::string* out);

// `text` with every invalid byte sequence replaced by U+FFFD, as Python's errors="replace" does for
// lone bytes.
std::string ReplaceInvalidUtf8(absl::string_view text);

}  // namespace quantd
