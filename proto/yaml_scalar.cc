// Scalars of YAML files, read and printed.
#include "proto/yaml_scalar.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"

namespace quantd::yaml_internal {
namespace {

// google.protobuf.Duration's own limit: about 10,000 years.
constexpr int64_t kDurationSecondsMax = 315'576'000'000;

// From here on not every integer is a double.
constexpr double kExactIntegerMax = 9007199254740992.0;

struct ByteUnit {
  absl::string_view name;
  double bytes;
};
constexpr ByteUnit kByteUnits[] = {
    {"B", 1.0},
    {"kB", 1e3},
    {"KB", 1e3},
    {"MB", 1e6},
    {"GB", 1e9},
    {"TB", 1e12},
    {"KiB", 1024.0},
    {"MiB", 1048576.0},
    {"GiB", 1073741824.0},
    {"TiB", 1099511627776.0},
};

bool IsPlainCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || absl::StrContains("_./@+=()-", c);
}

// Words that some YAML reader takes for a bool or a null.
bool IsReservedWord(absl::string_view text) {
  for (const absl::string_view word :
       {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}) {
    if (absl::EqualsIgnoreCase(text, word)) return true;
  }
  return false;
}

bool IsSafePlain(absl::string_view text) {
  if (text.empty() || IsReservedWord(text)) return false;
  const unsigned char first = static_cast<unsigned char>(text[0]);
  if (!absl::ascii_isalnum(first) && first != '_' && first != '/' && first != '.') return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool inner_blank = text[i] == ' ' && i + 1 < text.size() && text[i - 1] != ' ';
    if (!IsPlainCharacter(text[i]) && !inner_blank) return false;
  }
  if (absl::StartsWith(text, "...")) return false;  // The end of a document.
  return PlainValue(text).has_string_value();
}

}  // namespace

bool IsNull(absl::string_view plain) {
  return plain.empty() || plain == "~" || plain == "null" || plain == "Null" || plain == "NULL";
}

bool ParseBool(absl::string_view plain, bool* value) {
  if (plain == "true" || plain == "True" || plain == "TRUE") {
    *value = true;
    return true;
  }
  if (plain == "false" || plain == "False" || plain == "FALSE") {
    *value = false;
    return true;
  }
  return false;
}

bool ParseNumber(absl::string_view plain, double* value) {
  bool digit = false;
  for (const char c : plain) {
    if (absl::ascii_isdigit(static_cast<unsigned char>(c))) {
      digit = true;
    } else if (!absl::StrContains("+-.eE", c)) {
      return false;
    }
  }
  return digit && absl::SimpleAtod(plain, value) && std::isfinite(*value);
}

google::protobuf::Value PlainValue(absl::string_view plain) {
  google::protobuf::Value value;
  bool flag = false;
  double number = 0;
  if (IsNull(plain)) {
    value.set_null_value(google::protobuf::NULL_VALUE);
  } else if (ParseBool(plain, &flag)) {
    value.set_bool_value(flag);
  } else if (ParseNumber(plain, &number)) {
    value.set_number_value(number);
  } else {
    value.set_string_value(std::string(plain));
  }
  return value;
}

absl::StatusOr<google::protobuf::Duration> ParseDuration(absl::string_view text) {
  absl::Duration duration;
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a length of time", why,
                                                   "; write 30s, 15m, 2h or 1h30m"));
  };
  double number = 0;
  if (ParseNumber(text, &number) && number != 0) return refuse(": it has no unit");
  if (!absl::ParseDuration(std::string(text), &duration)) return refuse("");
  if (duration < absl::ZeroDuration()) return refuse(": it is negative");
  if (duration > absl::Seconds(kDurationSecondsMax))
    return refuse(": it is longer than 10,000 years");
  google::protobuf::Duration result;
  result.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  result.set_nanos(
      static_cast<int32_t>(absl::IDivDuration(duration, absl::Nanoseconds(1), &duration)));
  return result;
}

absl::StatusOr<google::protobuf::Timestamp> ParseTimestamp(absl::string_view text) {
  absl::Time time;
  std::string why;
  const absl::Time first = absl::FromCivil(absl::CivilSecond(1, 1, 1), absl::UTCTimeZone());
  const absl::Time end = absl::FromCivil(absl::CivilSecond(10000, 1, 1), absl::UTCTimeZone());
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &why) || time < first || time >= end) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a time; write 2025-06-15T12:00:00Z"));
  }
  google::protobuf::Timestamp result;
  const int64_t seconds = absl::ToUnixSeconds(time);
  result.set_seconds(seconds);
  result.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return result;
}

absl::StatusOr<int64_t> ParseByteSize(absl::string_view text) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a size in bytes", why, "; write 4GiB, 500MB or 4096"));
  };
  int64_t bytes = 0;
  if (absl::SimpleAtoi(text, &bytes)) {
    return bytes < 0 ? absl::StatusOr<int64_t>(refuse(": it is negative")) : bytes;
  }
  size_t split = text.size();
  while (split > 0 && absl::ascii_isalpha(static_cast<unsigned char>(text[split - 1]))) --split;
  const absl::string_view unit = text.substr(split);
  double number = 0;
  if (!ParseNumber(absl::StripAsciiWhitespace(text.substr(0, split)), &number)) return refuse("");
  double scale = unit.empty() ? 1 : 0;
  for (const ByteUnit& known : kByteUnits) {
    if (known.name == unit) scale = known.bytes;
  }
  if (scale == 0) return refuse(absl::StrCat(": unknown unit \"", unit, "\""));
  const double value = number * scale;
  if (value < 0) return refuse(": it is negative");
  if (value >= 9.2e18) return refuse(": it is too large");
  if (value != std::floor(value)) return refuse(": it is not a whole number of bytes");
  return static_cast<int64_t>(value);
}

std::string PrintDuration(const google::protobuf::Duration& duration) {
  return absl::FormatDuration(absl::Seconds(duration.seconds()) +
                              absl::Nanoseconds(duration.nanos()));
}

std::string PrintTimestamp(const google::protobuf::Timestamp& timestamp) {
  return absl::FormatTime(
      "%E4Y-%m-%dT%H:%M:%E*SZ",
      absl::FromUnixSeconds(timestamp.seconds()) + absl::Nanoseconds(timestamp.nanos()),
      absl::UTCTimeZone());
}

std::string PrintByteSize(int64_t bytes) {
  constexpr int64_t kKibibyte = 1024;
  if (bytes <= 0) return absl::StrCat(bytes);
  int64_t count = bytes;
  int power = 0;
  for (; power < 4 && count % kKibibyte == 0; ++power) count /= kKibibyte;
  constexpr absl::string_view kSuffix[] = {"", "KiB", "MiB", "GiB", "TiB"};
  return absl::StrCat(count, kSuffix[power]);
}

std::string PrintNumber(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  std::string text;
  double back = 0;
  for (int digits = 15; digits <= 17 && !(absl::SimpleAtod(text, &back) && back == value);
       ++digits) {
    text = absl::StrFormat("%.*g", digits, value);
  }
  // Bare digits would be refused as an integer that a double does not hold exactly.
  if (std::abs(value) >= kExactIntegerMax && text.find_first_of(".e") == std::string::npos)
    text += ".0";
  return text;
}

std::string PrintString(absl::string_view text) {
  if (IsSafePlain(text)) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&quoted, "\\x%02x", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string EnumWord(const google::protobuf::EnumValueDescriptor* value) {
  std::string prefix;
  for (const char c : value->type()->name()) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  absl::string_view name = value->name();
  absl::ConsumePrefix(&name, prefix + "_");
  return absl::AsciiStrToLower(name);
}

}  // namespace quantd::yaml_internal
