// The alphabet of byte-level BPE: every byte as one printable character, so that any bytes can be
// written as text and a vocabulary holds no unprintable token.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// Each byte of `text` as its character.
std::string BytesToAlphabet(absl::string_view text);
// The byte that a character stands for; nullopt for one outside the alphabet.
std::optional<char> AlphabetToByte(uint32_t code_point);

}  // namespace quantd
