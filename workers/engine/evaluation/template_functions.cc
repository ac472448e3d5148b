// Jinja's filters and Python's methods of strings, lists and mappings: two tables by name.
#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/python_text.h"
#include "workers/engine/evaluation/template_values.h"

namespace quantd::engine {
namespace {

using Value = TemplateValue;
using Arguments = TemplateArguments;
using Result = absl::StatusOr<Value>;

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

Value Pairs(const Value& value) {
  Value pairs = Value::array();
  for (const auto& item : value.items()) pairs.push_back(Value::array({item.key(), item.value()}));
  return pairs;
}

Result Length(const Arguments& given) {
  const Value& value = given.values[0];
  if (value.is_string()) return Value(CodePointCount(value.get<std::string>()));
  if (IsUndefined(value)) return Value(0);
  if (!value.is_array() && !value.is_object()) return CannotApply("length", value);
  return Value(value.size());
}

Result Join(const Arguments& given) {
  QD_ASSIGN_OR_RETURN(const Value list, TemplateList(given.values[0]));
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
  QD_ASSIGN_OR_RETURN(const Value list, TemplateList(given.values[0]));
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
  QD_ASSIGN_OR_RETURN(const Value list, TemplateList(given.values[0]));
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
  QD_ASSIGN_OR_RETURN(const Value list, TemplateList(given.values[0]));
  return GetItem(list, index);
}

Result ToJson(const Arguments& given) {
  const Value indent = Argument(given, 1, "indent", nullptr);
  return Value(Dump(given.values[0], indent.is_number() ? indent.get<int>() : -1));
}

Result Items(const Arguments& given) {
  if (!given.values[0].is_object()) return CannotApply("items", given.values[0]);
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
       if (!g.values[0].is_number()) return CannotApply("abs", g.values[0]);
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
    {"list", [](const Arguments& g) { return TemplateList(g.values[0]); }},
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
  const std::vector<std::string> set = TemplateCharacters(ToText(given.values[1]));
  std::vector<std::string> characters = TemplateCharacters(text);
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
  if (!given.values[0].is_object() || given.values.size() < 2)
    return CannotApply("get", given.values[0]);
  QD_ASSIGN_OR_RETURN(const Value found, GetItem(given.values[0], given.values[1]));
  return IsUndefined(found) ? Argument(given, 2, "default", nullptr) : found;
}

Result IndexOf(const Arguments& given) {
  if (!given.values[0].is_array() || given.values.size() < 2) {
    return CannotApply("index", given.values[0]);
  }
  const Value& list = given.values[0];
  const auto found = std::find(list.begin(), list.end(), given.values[1]);
  if (found == list.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(ToRepr(given.values[1]), " is not in ", ToRepr(list)));
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
    {"keys", [](const Arguments& g) { return TemplateList(g.values[0]); }},
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
}  // namespace

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

}  // namespace quantd::engine
