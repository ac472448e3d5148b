// See field_reader.h.
#include "workers/engine/checkpoint/field_reader.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/json.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

bool IsAbove63Bits(const json& value) {
  return value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
}

bool IsPositive(const json& value) {
  return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0;
}

}  // namespace

bool FieldReader::Has(const char* field) const {
  const auto found = object_.find(field);
  return found != object_.end() && !found->is_null();
}

void FieldReader::Fail(absl::string_view field, const json& value, absl::string_view allowed) {
  if (!status_.ok()) return;
  status_ = absl::DataLossError(absl::StrCat(origin_, ": \"", parent_, field, "\" is ",
                                             JsonText(value), "; it must be ", allowed));
}

void FieldReader::Int(const char* field, int64_t low, int64_t high, bool required, int64_t* out) {
  if (!Present(field, required)) return;
  const json& value = At(field);
  if (value.is_number_integer() && !IsAbove63Bits(value)) {
    const int64_t number = value.get<int64_t>();
    if (number >= low && number <= high) {
      *out = number;
      return;
    }
  }
  Fail(field, value, absl::StrCat("a whole number from ", low, " to ", high));
}

void FieldReader::Positive(const char* field, bool required, double* out) {
  if (!Present(field, required)) return;
  if (!IsPositive(At(field))) return Fail(field, At(field), "a number above 0");
  *out = At(field).get<double>();
}

void FieldReader::PositiveList(const char* field, size_t count, std::vector<double>* out) {
  if (!Present(field, /*required=*/true)) return;
  const json& list = At(field);
  bool good = list.is_array() && list.size() == count;
  for (size_t i = 0; good && i < count; ++i) good = IsPositive(list[i]);
  if (!good) {
    const std::string had =
        list.is_array() ? absl::StrCat(" (this list has ", list.size(), ")") : "";
    return Fail(field, list, absl::StrCat("a list of ", count, " numbers above 0", had));
  }
  *out = list.get<std::vector<double>>();
}

void FieldReader::Bool(const char* field, bool* out) {
  if (!Present(field, false)) return;
  if (!At(field).is_boolean()) return Fail(field, At(field), "true or false");
  *out = At(field).get<bool>();
}

void FieldReader::Text(const char* field, std::string* out) {
  if (!Present(field, false)) return;
  if (!At(field).is_string()) return Fail(field, At(field), "a string");
  *out = At(field).get<std::string>();
}

bool FieldReader::Present(const char* field, bool required) {
  if (!status_.ok()) return false;
  if (Has(field)) return true;
  if (required) {
    status_ = absl::DataLossError(absl::StrCat(origin_, ": \"", parent_, field, "\" is missing"));
  }
  return false;
}

}  // namespace quantd::engine
