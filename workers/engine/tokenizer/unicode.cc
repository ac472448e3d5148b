// utf8proc's properties corrected by the tables of version differences.
#include "workers/engine/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"
#include "workers/engine/tokenizer/unicode_tables.h"

namespace quantd {
namespace {

using unicode_tables::NewRange;

template <typename Entry>
const Entry* FindRange(const std::vector<Entry>& ranges, uint32_t code_point) {
  auto after = std::upper_bound(ranges.begin(), ranges.end(), code_point,
                                [](uint32_t c, const Entry& entry) { return c < entry.first; });
  if (after == ranges.begin()) return nullptr;
  const Entry& entry = *std::prev(after);
  return code_point <= entry.last ? &entry : nullptr;
}

// The two letters of the general category, as of Unicode 16 at least.
absl::string_view Category(uint32_t code_point) {
  if (const NewRange* entry = FindRange(unicode_tables::NewSince14(), code_point)) {
    return entry->category;
  }
  return utf8proc_category_string(static_cast<utf8proc_int32_t>(code_point));
}

struct ClassName {
  absl::string_view name;
  absl::string_view categories;  // Prefixes of one or two letters, separated by blanks.
};

// The long names of the general categories and the classes that are unions of them. Scripts and the
// short names ("lu", "l") stand for themselves.
constexpr std::array kClassNames = {
    ClassName{"w", "L M Nd Nl Pc"},
    ClassName{"word", "L M Nd Nl Pc"},
    ClassName{"d", "Nd"},
    ClassName{"digit", "Nd"},
    ClassName{"letter", "L"},
    ClassName{"lc", "Lu Ll Lt"},
    ClassName{"casedletter", "Lu Ll Lt"},
    ClassName{"uppercaseletter", "Lu"},
    ClassName{"lowercaseletter", "Ll"},
    ClassName{"titlecaseletter", "Lt"},
    ClassName{"modifierletter", "Lm"},
    ClassName{"otherletter", "Lo"},
    ClassName{"mark", "M"},
    ClassName{"nonspacingmark", "Mn"},
    ClassName{"spacingmark", "Mc"},
    ClassName{"enclosingmark", "Me"},
    ClassName{"number", "N"},
    ClassName{"decimalnumber", "Nd"},
    ClassName{"letternumber", "Nl"},
    ClassName{"othernumber", "No"},
    ClassName{"punctuation", "P"},
    ClassName{"symbol", "S"},
    ClassName{"mathsymbol", "Sm"},
    ClassName{"currencysymbol", "Sc"},
    ClassName{"modifiersymbol", "Sk"},
    ClassName{"othersymbol", "So"},
};

bool InCategories(absl::string_view category, absl::string_view prefixes) {
  while (!prefixes.empty()) {
    const size_t end = std::min(prefixes.find(' '), prefixes.size());
    if (category.substr(0, end) == prefixes.substr(0, end)) return true;
    prefixes.remove_prefix(std::min(end + 1, prefixes.size()));
  }
  return false;
}

}  // namespace

bool IsWhitespace(uint32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsNumeric(uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return Category(c)[0] == 'N' || FindRange(unicode_tables::NewNumbers(), c) != nullptr;
}

bool IsPunctuation(uint32_t c) {
  if (c < 0x80) return absl::ascii_ispunct(static_cast<unsigned char>(c));
  // Two that later versions took out of the category.
  if (c == 0x166D || c == 0x111C9) return true;
  return Category(c)[0] == 'P' && !FindRange(unicode_tables::UnknownToPunctuation(), c);
}

bool IsWordCharacter(uint32_t c) {
  if (c < 0x80) return c == '_' || absl::ascii_isalnum(static_cast<unsigned char>(c));
  if (c == 0x200C || c == 0x200D) return true;  // Join_Control.
  // Circled and squared letters are symbols with the Alphabetic property.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
      (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  return InCategories(Category(c), "L M Nd Nl Pc");
}

bool IsCombiningMark(uint32_t c) {
  // Two that later versions made letters.
  if (c == 0x1CF2 || c == 0x1CF3) return true;
  return c >= 0x300 && Category(c)[0] == 'M' && !IsUnknownToNormalizer(c);
}

bool IsUnknownToNormalizer(uint32_t c) {
  return c >= 0x558 && FindRange(unicode_tables::UnknownToNormalizer(), c) != nullptr;
}

void AppendLowercase(uint32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(absl::ascii_tolower(static_cast<unsigned char>(c)));
  } else if (c == 0x130) {
    out->append("i\xCC\x87");
  } else if (const auto* capitals = FindRange(unicode_tables::CapitalsSince14(), c)) {
    AppendUtf8(c + capitals->to_lower, out);
  } else {
    AppendUtf8(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)), out);
  }
}

std::string NewClassMembers(absl::string_view name) {
  std::string plain;
  for (char letter : name) {
    if (letter != ' ' && letter != '-' && letter != '_') plain += absl::ascii_tolower(letter);
  }
  std::string categories;
  for (const ClassName& known : kClassNames) {
    if (known.name == plain) categories = std::string(known.categories);
  }
  if (categories.empty() && plain.size() <= 2 && !plain.empty()) {
    categories = plain;
    categories[0] = absl::ascii_toupper(categories[0]);
  }
  std::string members;
  for (const NewRange& range : unicode_tables::NewSince14()) {
    const bool member = categories.empty() ? absl::AsciiStrToLower(range.script) == plain
                                           : InCategories(range.category, categories);
    if (member && !plain.empty()) {
      absl::StrAppendFormat(&members, "\\x{%x}-\\x{%x}", range.first, range.last);
    }
  }
  return members;
}

}  // namespace quantd
