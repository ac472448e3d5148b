// A strict decoder by the table of well-formed byte sequences (Unicode 15, table 3-7).
#include "base/utf8.h"

namespace quantd {

int32_t DecodeUtf8(absl::string_view text, size_t* position) {
  const size_t at = *position;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const auto is_tail = [&](size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
    return at + i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) {
    *position += 1;
    return static_cast<int32_t>(lead);
  }
  if (lead >= 0xC2 && lead <= 0xDF && is_tail(1)) {
    *position += 2;
    return static_cast<int32_t>((lead & 0x1F) << 6 | (byte(1) & 0x3F));
  }
  if (lead >= 0xE0 && lead <= 0xEF &&
      is_tail(1, lead == 0xE0 ? 0xA0 : 0x80, lead == 0xED ? 0x9F : 0xBF) && is_tail(2)) {
    *position += 3;
    return static_cast<int32_t>((lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F));
  }
  if (lead >= 0xF0 && lead <= 0xF4 &&
      is_tail(1, lead == 0xF0 ? 0x90 : 0x80, lead == 0xF4 ? 0x8F : 0xBF) && is_tail(2) &&
      is_tail(3)) {
    *position += 4;
    return static_cast<int32_t>((lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 |
                                (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F));
  }
  *position += 1;
  return -1;
}

bool IsValidUtf8(absl::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    if (DecodeUtf8(text, &position) < 0) return false;
  }
  return true;
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t position = 0;
  while (position < text.size()) {
    const int32_t code_point = DecodeUtf8(text, &position);
    AppendUtf8(code_point < 0 ? 0xFFFD : static_cast<uint32_t>(code_point), &out);
  }
  return out;
}

}  // namespace quantd
