// See json_text.h.
#include "base/json_text.h"

#include "absl/strings/str_cat.h"

namespace quantd {

std::string EscapeJson(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          constexpr char kHex[] = "0123456789abcdef";
          absl::StrAppend(&out, "\\u00", std::string(1, kHex[(c >> 4) & 15]),
                          std::string(1, kHex[c & 15]));
        } else {
          out += c;
        }
    }
  }
  return out;
}

}  // namespace quantd
