// Printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100 and up, in
// order.
#include "workers/engine/tokenizer/byte_alphabet.h"

#include <array>

#include "base/utf8.h"

namespace quantd {
namespace {

constexpr int kCharacters = 256 + 68;

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, kCharacters> bytes;
  Alphabet() {
    bytes.fill(-1);
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const int character = printable ? byte : next++;
      AppendUtf8(character, &characters[byte]);
      bytes[character] = byte;
    }
  }
};

const Alphabet& TheAlphabet() {
  static const auto* alphabet = new Alphabet;
  return *alphabet;
}

}  // namespace

std::string BytesToAlphabet(absl::string_view text) {
  const Alphabet& alphabet = TheAlphabet();
  std::string out;
  out.reserve(text.size() * 2);
  for (unsigned char byte : text) out += alphabet.characters[byte];
  return out;
}

std::optional<char> AlphabetToByte(uint32_t code_point) {
  if (code_point >= kCharacters) return std::nullopt;
  const int byte = TheAlphabet().bytes[code_point];
  if (byte < 0) return std::nullopt;
  return static_cast<char>(byte);
}

}  // namespace quantd
