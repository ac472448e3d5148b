// What a template can do with values: Jinja's filters, tests and operators and Python's methods of
// strings and mappings, on JSON. A variable that is not there is Undefined().
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

using TemplateValue = nlohmann::json;

inline TemplateValue Undefined() { return TemplateValue(TemplateValue::value_t::discarded); }
inline bool IsUndefined(const TemplateValue& value) { return value.is_discarded(); }

// bool(value).
bool Truth(const TemplateValue& value);
// str(value); "" for Undefined.
std::string ToText(const TemplateValue& value);
// repr(value).
std::string ToRepr(const TemplateValue& value);
// list(value): a string's characters, a mapping's keys; an empty list for Undefined.
absl::StatusOr<TemplateValue> TemplateList(const TemplateValue& value);
std::vector<std::string> TemplateCharacters(const std::string& text);
// "NAME cannot be applied to a TYPE".
absl::Status CannotApply(absl::string_view name, const TemplateValue& value);

struct TemplateArguments {
  std::vector<TemplateValue> values;  // values[0] is what the filter or the method is applied to.
  std::map<std::string, TemplateValue> named;
};

// Each is InvalidArgument for an unknown name, listing the known ones, and for types that do not
// fit.
absl::StatusOr<TemplateValue> ApplyFilter(const std::string& name, const TemplateArguments& given);
absl::StatusOr<bool> ApplyTest(const std::string& name, const TemplateArguments& given);
absl::StatusOr<TemplateValue> CallMethod(const std::string& name, const TemplateArguments& given);
absl::StatusOr<TemplateValue> ApplyBinary(const std::string& word, const TemplateValue& left,
                                          const TemplateValue& right);
// value[index], Undefined where there is none.
absl::StatusOr<TemplateValue> GetItem(const TemplateValue& value, const TemplateValue& index);
// value[start:stop:step]; null for what is not given.
absl::StatusOr<TemplateValue> GetSlice(const TemplateValue& value, const TemplateValue& start,
                                       const TemplateValue& stop, const TemplateValue& step);

}  // namespace quantd::engine
