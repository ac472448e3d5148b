// Filters, tests and methods are tables by name.
#include "workers/engine/evaluation/template_values.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/evaluation/python_text.h"

namespace quantd::engine {
namespace {

using Value = TemplateValue;
using Arguments = TemplateArguments;
using Result = absl::StatusOr<Value>;

// A product of strings and numbers that would fill the memory.
constexpr int64_t kRepeatMax = 1 << 20;

absl::Status Wrong(absl::string_view name, const Value& value) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " cannot be applied to ",
                   IsUndefined(value) ? "an undefined value" : value.type_name()));
}

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

// repr(value).
std::string Repr(const Value& value) {
  if (value.is_string()) return Quoted(value.get<std::string>());
  return ToText(value);
}

std::string Dump(const Value& value, int indent) {
  // json.dumps(ensure_ascii=False): ", " and ": " between items.
  if (indent >= 0) return value.dump(indent, ' ', false, Value::error_handler_t::replace);
  if (value.is_object()) {
    std::vector<std::string> items;
    for (const auto& item : value.items()) {
      items.push_back(absl::StrCat(Dump(item.key(), -1), ": ", Dump(item.value(), -1)));
    }
    return absl::StrCat("{", absl::StrJoin(items, ", "), "}");
  }
  if (value.is_array()) {
    std::vector<std::string> items;
    for (const Value& item : value) items.push_back(Dump(item, -1));
    return absl::StrCat("[", absl::StrJoin(items, ", "), "]");
  }
  return value.dump(-1, ' ', false, Value::error_handler_t::replace);
}

Value Argument(const Arguments& given, size_t index, const char* name, Value fallback) {
  if (index < given.values.size()) return given.values[index];
  const auto found = given.named.find(name);
  return found == given.named.end() ? fallback : found->second;
}

std::vector<std::string> Characters(const std::string& text) {
  std::vector<std::string> characters;
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    DecodeUtf8(text, &position);
    characters.push_back(text.substr(start, position - start));
  }
  return characters;
}

// list(value).
Result ToList(const Value& value) {
  if (value.is_array()) return value;
  Value list = Value::array();
  if (value.is_string()) {
    for (const std::string& character : Characters(value.get<std::string>())) {
      list.push_back(character);
    }
  } else if (value.is_object()) {
    for (const auto& item : value.items()) list.push_back(item.key());
  } else if (!IsUndefined(value)) {
    return Wrong("list", value);
  }
  return list;
}

Value Pairs(const Value& value) {
  Value pairs = Value::array();
  for (const auto& item : value.items()) pairs.push_back(Value::array({item.key(), item.value()}));
  return pairs;
}

Result Length(const Arguments& given) {
  const Value& value = given.values[0];
  if (value.is_string()) return Value(CodePointCount(value.get<std::string>()));
  if (IsUndefined(value)) return Value(0);
  if (!value.is_array() && !value.is_object()) return Wrong("length", value);
  return Value(value.size());
}

Result Join(const Arguments& given) {
  QD_ASSIGN_OR_RETURN(const Value list, ToList(given.values[0]));
  std::vector<std::string> words;
  for (const Value& item : list) words.push_back(ToText(item));
  return Value(absl::StrJoin(words, ToText(Argument(given, 1, "d", ""))));
}

Result ToInt(const Arguments& given) {
  const Value& value = given.values[0];
  if (value.is_number()) return Value(static_cast<int64_t>(value.get<double>()));
  int64_t number = 0;
  if (absl::SimpleAtoi(PythonStrip(ToText(value)), &number)) return Value(number);
  return Argument(given, 1, "default", 0);
}

Result ToFloat(const Arguments& given) {
  const Value& value = given.values[0];
  double number = 0;
  if (value.is_number()) return Value(value.get<double>());
  if (absl::SimpleAtod(PythonStrip(ToText(value)), &number)) return Value(number);
  return Argument(given, 1, "default", 0.0);
}

// selectattr("role", "equalto", "user"), and rejectattr for the others.
Result Select(const Arguments& given, bool wanted) {
  QD_ASSIGN_OR_RETURN(const Value list, ToList(given.values[0]));
  if (given.values.size() < 2) return absl::InvalidArgumentError("selectattr needs a name");
  Value chosen = Value::array();
  for (const Value& item : list) {
    QD_ASSIGN_OR_RETURN(const Value attribute, GetItem(item, given.values[1]));
    bool holds = Truth(attribute);
    if (given.values.size() > 2) {
      Arguments test{{attribute}, {}};
      test.values.insert(test.values.end(), given.values.begin() + 3, given.values.end());
      QD_ASSIGN_OR_RETURN(holds, ApplyTest(ToText(given.values[2]), test));
    }
    if (holds == wanted) chosen.push_back(item);
  }
  return chosen;
}

Result Map(const Arguments& given) {
  QD_ASSIGN_OR_RETURN(const Value list, ToList(given.values[0]));
  Value mapped = Value::array();
  const auto attribute = given.named.find("attribute");
  for (const Value& item : list) {
    if (attribute != given.named.end()) {
      QD_ASSIGN_OR_RETURN(Value value, GetItem(item, attribute->second));
      mapped.push_back(std::move(value));
    } else {
      QD_ASSIGN_OR_RETURN(Value value,
                          ApplyFilter(ToText(Argument(given, 1, "", "")), {{item}, {}}));
      mapped.push_back(std::move(value));
    }
  }
  return mapped;
}

Result Strip(const Arguments& given) {
  return Value(std::string(PythonStrip(ToText(given.values[0]))));
}
Result Lower(const Arguments& given) { return Value(PythonLower(ToText(given.values[0]))); }
Result Upper(const Arguments& given) {
  return Value(absl::AsciiStrToUpper(ToText(given.values[0])));
}
Result Capitalize(const Arguments& given) {
  std::string text = PythonLower(ToText(given.values[0]));
  if (!text.empty()) text[0] = absl::ascii_toupper(text[0]);
  return Value(text);
}
Result Replace(const Arguments& given) {
  const std::string from = ToText(Argument(given, 1, "old", ""));
  if (from.empty()) return absl::InvalidArgumentError("replace needs a text to look for");
  return Value(absl::StrReplaceAll(ToText(given.values[0]),
                                   {{from, ToText(Argument(given, 2, "new", ""))}}));
}
Result Default(const Arguments& given) {
  const Value& value = given.values[0];
  const bool empty_too = Truth(Argument(given, 2, "boolean", false));
  const bool missing = IsUndefined(value) || (empty_too && !Truth(value));
  return missing ? Argument(given, 1, "default_value", "") : value;
}
Result At(const Arguments& given, int64_t index) {
  QD_ASSIGN_OR_RETURN(const Value list, ToList(given.values[0]));
  return GetItem(list, index);
}
Result ToJson(const Arguments& given) {
  const Value indent = Argument(given, 1, "indent", nullptr);
  return Value(Dump(given.values[0], indent.is_number() ? indent.get<int>() : -1));
}
Result Items(const Arguments& given) {
  if (!given.values[0].is_object()) return Wrong("items", given.values[0]);
  return Pairs(given.values[0]);
}

struct Function {
  const char* name;
  Result (*apply)(const Arguments& given);
};

constexpr Function kFilters[] = {
    {"abs",
     [](const Arguments& g) -> Result {
       if (g.values[0].is_number_integer()) return Value(std::abs(g.values[0].get<int64_t>()));
       if (!g.values[0].is_number()) return Wrong("abs", g.values[0]);
       return Value(std::abs(g.values[0].get<double>()));
     }},
    {"capitalize", Capitalize},
    {"count", Length},
    {"d", Default},
    {"default", Default},
    {"first", [](const Arguments& g) { return At(g, 0); }},
    {"float", ToFloat},
    {"int", ToInt},
    {"items", Items},
    {"join", Join},
    {"last", [](const Arguments& g) { return At(g, -1); }},
    {"length", Length},
    {"list", [](const Arguments& g) { return ToList(g.values[0]); }},
    {"lower", Lower},
    {"map", Map},
    {"rejectattr", [](const Arguments& g) { return Select(g, false); }},
    {"replace", Replace},
    {"safe", [](const Arguments& g) -> Result { return g.values[0]; }},
    {"selectattr", [](const Arguments& g) { return Select(g, true); }},
    {"string", [](const Arguments& g) -> Result { return Value(ToText(g.values[0])); }},
    {"tojson", ToJson},
    {"trim", Strip},
    {"upper", Upper},
};

// The characters of a strip's argument, or white space.
Result StripMethod(const Arguments& given, bool left, bool right) {
  const std::string text = ToText(given.values[0]);
  if (given.values.size() < 2) {
    absl::string_view view = text;
    if (left) view = PythonStripLeft(view);
    if (right) view = PythonStripRight(view);
    return Value(std::string(view));
  }
  const std::vector<std::string> set = Characters(ToText(given.values[1]));
  std::vector<std::string> characters = Characters(text);
  const auto inside = [&](const std::string& c) {
    return std::find(set.begin(), set.end(), c) != set.end();
  };
  size_t first = 0, last = characters.size();
  while (left && first < last && inside(characters[first])) ++first;
  while (right && last > first && inside(characters[last - 1])) --last;
  return Value(absl::StrJoin(characters.begin() + static_cast<ptrdiff_t>(first),
                             characters.begin() + static_cast<ptrdiff_t>(last), ""));
}

Result SplitMethod(const Arguments& given) {
  const std::string text = ToText(given.values[0]);
  if (given.values.size() < 2) return Value(PythonSplit(text));
  const std::string separator = ToText(given.values[1]);
  if (separator.empty()) return absl::InvalidArgumentError("split needs a separator with text");
  const Value most = Argument(given, 2, "maxsplit", -1);
  const int64_t limit = most.is_number() ? most.get<int64_t>() : -1;
  if (limit >= 0) {
    return Value(std::vector<std::string>(
        absl::StrSplit(text, absl::MaxSplits(separator, static_cast<int>(limit)))));
  }
  return Value(std::vector<std::string>(absl::StrSplit(text, separator)));
}

Result Affix(const Arguments& given, bool (*holds)(absl::string_view, absl::string_view)) {
  if (given.values.size() < 2) return absl::InvalidArgumentError("startswith needs a text");
  const std::string text = ToText(given.values[0]);
  const Value& wanted = given.values[1];
  if (!wanted.is_array()) return Value(holds(text, ToText(wanted)));
  return Value(std::any_of(wanted.begin(), wanted.end(),
                           [&](const Value& one) { return holds(text, ToText(one)); }));
}
bool StartsWith(absl::string_view text, absl::string_view affix) {
  return absl::StartsWith(text, affix);
}
bool EndsWith(absl::string_view text, absl::string_view affix) {
  return absl::EndsWith(text, affix);
}

Result Get(const Arguments& given) {
  if (!given.values[0].is_object() || given.values.size() < 2) return Wrong("get", given.values[0]);
  QD_ASSIGN_OR_RETURN(const Value found, GetItem(given.values[0], given.values[1]));
  return IsUndefined(found) ? Argument(given, 2, "default", nullptr) : found;
}

Result IndexOf(const Arguments& given) {
  if (!given.values[0].is_array() || given.values.size() < 2) {
    return Wrong("index", given.values[0]);
  }
  const Value& list = given.values[0];
  const auto found = std::find(list.begin(), list.end(), given.values[1]);
  if (found == list.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Repr(given.values[1]), " is not in ", Repr(list)));
  }
  return Value(found - list.begin());
}

constexpr Function kMethods[] = {
    {"capitalize", Capitalize},
    {"endswith", [](const Arguments& g) { return Affix(g, EndsWith); }},
    {"get", Get},
    {"index", IndexOf},
    {"items", Items},
    {"join",
     [](const Arguments& g) -> Result {
       if (g.values.size() < 2) return absl::InvalidArgumentError("join needs a list");
       return Join({{g.values[1], g.values[0]}, {}});
     }},
    {"keys", [](const Arguments& g) { return ToList(g.values[0]); }},
    {"lower", Lower},
    {"lstrip", [](const Arguments& g) { return StripMethod(g, true, false); }},
    {"replace", Replace},
    {"rstrip", [](const Arguments& g) { return StripMethod(g, false, true); }},
    {"split", SplitMethod},
    {"startswith", [](const Arguments& g) { return Affix(g, StartsWith); }},
    {"strip", [](const Arguments& g) { return StripMethod(g, true, true); }},
    {"upper", Upper},
};

template <size_t N>
absl::StatusOr<const Function*> Find(const Function (&table)[N], const char* what,
                                     const std::string& name) {
  std::vector<std::string> names;
  for (const Function& function : table) {
    if (name == function.name) return &function;
    names.push_back(function.name);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "there is no ", what, " \"", name, "\" here; there are ", absl::StrJoin(names, ", ")));
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
  return Wrong("in", container);
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
    return Wrong(absl::StrCat("\"", absl::string_view(&word, 1), "\""),
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
      items.push_back(value.is_object() ? absl::StrCat(Quoted(item.key()), ": ", Repr(item.value()))
                                        : Repr(item.value()));
    }
    const char* const ends = value.is_object() ? "{}" : "[]";
    return absl::StrCat(std::string(1, ends[0]), absl::StrJoin(items, ", "),
                        std::string(1, ends[1]));
  }
  return value.dump();
}

Result ApplyFilter(const std::string& name, const Arguments& given) {
  QD_ASSIGN_OR_RETURN(const Function* function, Find(kFilters, "filter", name));
  QD_ASSIGN_OR_RETURN(Value value, function->apply(given), "filter ", name);
  return value;
}

Result CallMethod(const std::string& name, const Arguments& given) {
  QD_ASSIGN_OR_RETURN(const Function* function, Find(kMethods, "method", name));
  QD_ASSIGN_OR_RETURN(Value value, function->apply(given), "method ", name);
  return value;
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
      return Wrong(absl::StrCat("\"", word, "\""), left.is_number() ? right : left);
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
    QD_ASSIGN_OR_RETURN(const Value list, ToList(value));
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
  QD_ASSIGN_OR_RETURN(const Value list, ToList(value));
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
