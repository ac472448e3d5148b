// One checker per type, by a table of what a value must look like.
#include "server/validation/option_validation.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_join.h"
#include "base/nearest.h"
#include "google/protobuf/util/message_differencer.h"

namespace quantd {
namespace {

using google::protobuf::Value;

constexpr size_t kQuotedBytesMax = 60;
constexpr int kListElementsMax = 64;  // Of one option in a sweep.

std::string Show(const Value& value) {
  switch (value.kind_case()) {
    case Value::kBoolValue:
      return value.bool_value() ? "true" : "false";
    case Value::kNumberValue:
      return absl::StrCat(value.number_value());
    case Value::kStringValue:
      return absl::StrCat("\"", value.string_value().substr(0, kQuotedBytesMax), "\"");
    case Value::kListValue:
      return "a list";
    case Value::kStructValue:
      return "an object";
    case Value::kNullValue:
    case Value::KIND_NOT_SET:
      break;
  }
  return "null";
}

bool HasType(const Value& value, v1::OptionInfo::Type type) {
  switch (type) {
    case v1::OptionInfo::BOOL:
      return value.kind_case() == Value::kBoolValue;
    case v1::OptionInfo::INT:
      return value.kind_case() == Value::kNumberValue &&
             std::nearbyint(value.number_value()) == value.number_value() &&
             std::abs(value.number_value()) <= 9007199254740992.0;  // 2^53: exact in JSON.
    case v1::OptionInfo::FLOAT:
      return value.kind_case() == Value::kNumberValue && std::isfinite(value.number_value());
    case v1::OptionInfo::STRING:
      return value.kind_case() == Value::kStringValue;
    default:
      return true;  // A type of a newer worker: the engine knows.
  }
}

const char* TypeName(v1::OptionInfo::Type type) {
  switch (type) {
    case v1::OptionInfo::BOOL:
      return "true or false";
    case v1::OptionInfo::INT:
      return "a whole number";
    case v1::OptionInfo::FLOAT:
      return "a number";
    case v1::OptionInfo::STRING:
      return "a string";
    default:
      return "a value";
  }
}

void CheckValue(const Field& field, const v1::OptionInfo& info, const Value& value) {
  if (!HasType(value, info.type())) {
    return field.Refuse(Show(value), " is not ", TypeName(info.type()));
  }
  if (info.allowed_size() > 0) {
    const bool found =
        std::any_of(info.allowed().begin(), info.allowed().end(), [&](const Value& allowed) {
          return google::protobuf::util::MessageDifferencer::Equals(allowed, value);
        });
    if (found) return;
    return field.Refuse(
        Show(value), " is none of ",
        absl::StrJoin(info.allowed(), ", ", [](std::string* out, const Value& allowed) {
          absl::StrAppend(out, Show(allowed));
        }));
  }
  if (value.kind_case() != Value::kNumberValue) return;
  if (info.has_minimum() && value.number_value() < info.minimum()) {
    field.Refuse(value.number_value(), " is less than the minimum ", info.minimum());
  }
  if (info.has_maximum() && value.number_value() > info.maximum()) {
    field.Refuse(value.number_value(), " is more than the maximum ", info.maximum());
  }
}

}  // namespace

void CheckOptions(const Field& field, const OptionRules& rules,
                  const google::protobuf::Struct& options) {
  std::vector<std::string> names;
  for (const v1::OptionInfo& info : *rules.known) names.push_back(info.name());
  for (const auto& [name, value] : options.fields()) {
    const Field here = field / name.substr(0, kQuotedBytesMax);
    const auto info = std::find_if(
        rules.known->begin(), rules.known->end(),
        [&, wanted = &name](const v1::OptionInfo& each) { return each.name() == *wanted; });
    if (info == rules.known->end()) {
      here.Refuse(rules.owner, " has no option \"", name.substr(0, kQuotedBytesMax), "\"",
                  Suggestion(name, names));
      continue;
    }
    if (!rules.lists || value.kind_case() != Value::kListValue) {
      CheckValue(here, *info, value);
      continue;
    }
    const auto& elements = value.list_value().values();
    if (elements.empty() || elements.size() > kListElementsMax) {
      here.Refuse("a list needs 1 ... ", kListElementsMax, " elements; this one has ",
                  elements.size());
      continue;
    }
    for (int i = 0; i < elements.size(); ++i) CheckValue(here[i], *info, elements[i]);
  }
}

void FillOptions(const google::protobuf::RepeatedPtrField<v1::OptionInfo>& known,
                 google::protobuf::Struct* options) {
  for (const v1::OptionInfo& info : known) {
    const bool has_default = info.has_default_value() &&
                             info.default_value().kind_case() != Value::kNullValue &&
                             info.default_value().kind_case() != Value::KIND_NOT_SET;
    if (has_default) options->mutable_fields()->insert({info.name(), info.default_value()});
  }
}

}  // namespace quantd
