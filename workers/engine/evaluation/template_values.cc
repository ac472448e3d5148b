// What values are in a template: truth, text, items, and what operators and tests make of them.
#include "workers/engine/evaluation/template_values.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/utf8.h"

namespace quantd::engine {
namespace {

using Value = TemplateValue;
using Arguments = TemplateArguments;
using Result = absl::StatusOr<Value>;

// A product of strings and numbers that would fill the memory.
constexpr int64_t kRepeatMax = 1 << 20;

std::string Quoted(const std::string& text) {
  const char quote = absl::StrContains(text, '\'') && !absl::StrContains(text, '"') ? '"' : '\'';
  std::string out(1, quote);
  for (const char c : text) {
    if (c == '\\' || c == quote) out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + quote;
}

struct TestRow {
  const char* name;
  bool (*holds)(const Value& value, const Value& argument);
};

constexpr TestRow kTests[] = {
    {"boolean", [](const Value& v, const Value&) { return v.is_boolean(); }},
    {"defined", [](const Value& v, const Value&) { return !IsUndefined(v); }},
    {"eq", [](const Value& v, const Value& a) { return v == a; }},
    {"equalto", [](const Value& v, const Value& a) { return v == a; }},
    {"even",
     [](const Value& v, const Value&) { return v.is_number() && v.get<int64_t>() % 2 == 0; }},
    {"false", [](const Value& v, const Value&) { return v.is_boolean() && !v.get<bool>(); }},
    {"integer", [](const Value& v, const Value&) { return v.is_number_integer(); }},
    {"iterable",
     [](const Value& v, const Value&) { return v.is_array() || v.is_object() || v.is_string(); }},
    {"mapping", [](const Value& v, const Value&) { return v.is_object(); }},
    {"none", [](const Value& v, const Value&) { return v.is_null(); }},
    {"number", [](const Value& v, const Value&) { return v.is_number(); }},
    {"odd",
     [](const Value& v, const Value&) { return v.is_number() && v.get<int64_t>() % 2 != 0; }},
    {"sequence",
     [](const Value& v, const Value&) { return v.is_array() || v.is_object() || v.is_string(); }},
    {"string", [](const Value& v, const Value&) { return v.is_string(); }},
    {"true", [](const Value& v, const Value&) { return v.is_boolean() && v.get<bool>(); }},
    {"undefined", [](const Value& v, const Value&) { return IsUndefined(v); }},
};

absl::StatusOr<bool> Contains(const Value& container, const Value& item) {
  if (container.is_string()) return absl::StrContains(container.get<std::string>(), ToText(item));
  if (container.is_object()) return item.is_string() && container.contains(item.get<std::string>());
  if (container.is_array()) {
    return std::find(container.begin(), container.end(), item) != container.end();
  }
  return CannotApply("in", container);
}

Result Arithmetic(char word, const Value& left, const Value& right) {
  if (word == '+' && left.is_string() && right.is_string()) {
    return Value(left.get<std::string>() + right.get<std::string>());
  }
  if (word == '+' && left.is_array() && right.is_array()) {
    Value sum = left;
    sum.insert(sum.end(), right.begin(), right.end());
    return sum;
  }
  if (word == '*' && left.is_string() && right.is_number_integer()) {
    const int64_t times = right.get<int64_t>();
    const std::string text = left.get<std::string>();
    if (times > kRepeatMax || static_cast<int64_t>(text.size()) * times > kRepeatMax) {
      return absl::InvalidArgumentError("a repeated text becomes too long");
    }
    std::string out;
    for (int64_t i = 0; i < times; ++i) out += text;
    return Value(out);
  }
  const auto numeric = [](const Value& v) { return v.is_number() || v.is_boolean(); };
  if (!numeric(left) || !numeric(right)) {
    return CannotApply(absl::StrCat("\"", absl::string_view(&word, 1), "\""),
                       numeric(left) ? right : left);
  }
  const auto number = [](const Value& v) {
    return v.is_boolean() ? (v.get<bool>() ? 1.0 : 0.0) : v.get<double>();
  };
  const double a = number(left), b = number(right);
  if ((word == '/' || word == 'd' || word == '%') && b == 0) {
    return absl::InvalidArgumentError("division by zero");
  }
  const double result = word == '+'   ? a + b
                        : word == '-' ? a - b
                        : word == '*' ? a * b
                        : word == '/' ? a / b
                        : word == 'd' ? std::floor(a / b)
                                      : a - b * std::floor(a / b);
  const bool whole = !left.is_number_float() && !right.is_number_float() && word != '/';
  if (whole && std::abs(result) < 9e15) return Value(static_cast<int64_t>(result));
  return Value(result);
}
}  // namespace

absl::Status CannotApply(absl::string_view name, const Value& value) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " cannot be applied to ",
                   IsUndefined(value) ? "an undefined value" : value.type_name()));
}

std::string ToRepr(const Value& value) {
  if (value.is_string()) return Quoted(value.get<std::string>());
  return ToText(value);
}

std::vector<std::string> TemplateCharacters(const std::string& text) {
  std::vector<std::string> characters;
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    DecodeUtf8(text, &position);
    characters.push_back(text.substr(start, position - start));
  }
  return characters;
}

Result TemplateList(const Value& value) {
  if (value.is_array()) return value;
  Value list = Value::array();
  if (value.is_string()) {
    for (const std::string& character : TemplateCharacters(value.get<std::string>())) {
      list.push_back(character);
    }
  } else if (value.is_object()) {
    for (const auto& item : value.items()) list.push_back(item.key());
  } else if (!IsUndefined(value)) {
    return CannotApply("list", value);
  }
  return list;
}

bool Truth(const Value& value) {
  if (IsUndefined(value) || value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

std::string ToText(const Value& value) {
  if (IsUndefined(value)) return "";
  if (value.is_null()) return "None";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_object() || value.is_array()) {
    std::vector<std::string> items;
    for (const auto& item : value.items()) {
      items.push_back(value.is_object()
                          ? absl::StrCat(Quoted(item.key()), ": ", ToRepr(item.value()))
                          : ToRepr(item.value()));
    }
    const char* const ends = value.is_object() ? "{}" : "[]";
    return absl::StrCat(std::string(1, ends[0]), absl::StrJoin(items, ", "),
                        std::string(1, ends[1]));
  }
  return value.dump();
}

absl::StatusOr<bool> ApplyTest(const std::string& name, const Arguments& given) {
  const Value argument = given.values.size() > 1 ? given.values[1] : Value();
  if (name == "in") return Contains(argument, given.values[0]);
  for (const TestRow& row : kTests) {
    if (name == row.name) return row.holds(given.values[0], argument);
  }
  return absl::InvalidArgumentError(absl::StrCat("there is no test \"is ", name, "\" here"));
}

Result ApplyBinary(const std::string& word, const Value& left, const Value& right) {
  if (word == "==") return Value(left == right);
  if (word == "!=") return Value(left != right);
  if (word == "in" || word == "not in") {
    QD_ASSIGN_OR_RETURN(const bool inside, Contains(right, left));
    return Value(inside == (word == "in"));
  }
  if (word == "~") return Value(ToText(left) + ToText(right));
  if (word == "<" || word == ">" || word == "<=" || word == ">=") {
    if (!(left.is_number() && right.is_number()) && !(left.is_string() && right.is_string())) {
      return CannotApply(absl::StrCat("\"", word, "\""), left.is_number() ? right : left);
    }
    return Value(word == "<"    ? left < right
                 : word == ">"  ? left > right
                 : word == "<=" ? left <= right
                                : left >= right);
  }
  return Arithmetic(word == "//" ? 'd' : word[0], left, right);
}

Result GetItem(const Value& value, const Value& index) {
  if (value.is_object() && index.is_string()) {
    const auto found = value.find(index.get<std::string>());
    return found == value.end() ? Undefined() : *found;
  }
  if (index.is_number_integer() && (value.is_array() || value.is_string())) {
    QD_ASSIGN_OR_RETURN(const Value list, TemplateList(value));
    int64_t at = index.get<int64_t>();
    const auto size = static_cast<int64_t>(list.size());
    if (at < 0) at += size;
    return at < 0 || at >= size ? Undefined() : list[static_cast<size_t>(at)];
  }
  if (IsUndefined(value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("an undefined value has no \"", ToText(index), "\""));
  }
  return Undefined();
}

Result GetSlice(const Value& value, const Value& start, const Value& stop, const Value& step) {
  QD_ASSIGN_OR_RETURN(const Value list, TemplateList(value));
  const auto size = static_cast<int64_t>(list.size());
  const int64_t by = step.is_number_integer() ? step.get<int64_t>() : 1;
  if (by == 0) return absl::InvalidArgumentError("a slice's step is 0");
  const auto bound = [&](const Value& given, int64_t fallback) {
    if (!given.is_number_integer()) return fallback;
    int64_t at = given.get<int64_t>();
    if (at < 0) at += size;
    return std::clamp<int64_t>(at, by > 0 ? 0 : -1, by > 0 ? size : size - 1);
  };
  const int64_t first = bound(start, by > 0 ? 0 : size - 1);
  const int64_t last = bound(stop, by > 0 ? size : -1);
  Value part = Value::array();
  for (int64_t i = first; by > 0 ? i < last : i > last; i += by) {
    part.push_back(list[static_cast<size_t>(i)]);
  }
  if (!value.is_string()) return part;
  std::string text;
  for (const Value& character : part) text += character.get<std::string>();
  return Value(text);
}

}  // namespace quantd::engine
