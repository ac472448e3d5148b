// Checks given options against their rows.
#include "workers/engine/job/options.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/nearest.h"

namespace quantd::engine {
namespace {

constexpr absl::string_view kTypeWords[] = {"true or false", "a whole number", "a number",
                                            "a string"};
constexpr absl::string_view kTypeNames[] = {"BOOL", "INT", "FLOAT", "STRING"};

std::string Dump(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// What is wrong with the value; empty: nothing. Whole floats become integers on the way.
std::string Complaint(const OptionInfo& option, nlohmann::json* value) {
  // Protobuf's Struct knows only doubles: 4 may arrive as 4.0.
  if (option.type == OptionType::kInt && value->is_number_float()) {
    const double number = value->get<double>();
    if (std::abs(number) < 9e15 && number == std::floor(number)) {
      *value = static_cast<int64_t>(number);
    }
  }
  if (option.type == OptionType::kFloat && value->is_number_integer()) {
    *value = value->get<double>();
  }
  const bool typed = option.type == OptionType::kBool    ? value->is_boolean()
                     : option.type == OptionType::kInt   ? value->is_number_integer()
                     : option.type == OptionType::kFloat ? value->is_number()
                                                         : value->is_string();
  if (!typed) return absl::StrCat(kTypeWords[static_cast<int>(option.type)], " is needed");
  if (!option.allowed.empty()) {
    for (const nlohmann::json& allowed : option.allowed) {
      if (*value == allowed) return "";
    }
    return absl::StrCat(
        "allowed are ",
        absl::StrJoin(option.allowed, ", ", [](std::string* out, const nlohmann::json& allowed) {
          absl::StrAppend(out, Dump(allowed));
        }));
  }
  if (value->is_number()) {
    const double number = value->get<double>();
    if (!std::isfinite(number)) return "a finite number is needed";
    if (option.minimum && number < *option.minimum) {
      return absl::StrCat("at least ", *option.minimum, " is needed");
    }
    if (option.maximum && number > *option.maximum) {
      return absl::StrCat("at most ", *option.maximum, " is possible");
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<nlohmann::json> ResolveOptionValues(absl::string_view owner,
                                                   absl::Span<const OptionInfo> options,
                                                   const nlohmann::json& given) {
  if (!given.is_null() && !given.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(owner, ": options must be an object, found ", Dump(given)));
  }
  nlohmann::json resolved = nlohmann::json::object();
  for (const OptionInfo& option : options) resolved[option.name] = option.default_value;
  for (const auto& item : given.items()) {
    const OptionInfo* row = nullptr;
    for (const OptionInfo& option : options) {
      if (option.name == item.key()) row = &option;
    }
    if (row == nullptr) {
      std::vector<std::string> known;
      for (const OptionInfo& option : options) known.push_back(option.name);
      return absl::InvalidArgumentError(absl::StrCat(owner, ": unknown option \"", item.key(), "\"",
                                                     Suggestion(item.key(), known)));
    }
    nlohmann::json value = item.value();
    const std::string complaint = Complaint(*row, &value);
    if (!complaint.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(owner, ": option \"", item.key(), "\" is ",
                                                     Dump(item.value()), "; ", complaint));
    }
    resolved[item.key()] = std::move(value);
  }
  return resolved;
}

absl::StatusOr<nlohmann::json> ParseOptionText(absl::string_view text) {
  nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  if (value.is_boolean() || value.is_number()) return value;
  if (value.is_string()) return value;
  if (!value.is_discarded()) {
    return absl::InvalidArgumentError(
        absl::StrCat("option value ", text, ": a number, true, false or a name is needed"));
  }
  return nlohmann::json(std::string(text));
}

nlohmann::json OptionInfoToJson(const OptionInfo& option) {
  nlohmann::json json = {{"name", option.name},
                         {"type", std::string(kTypeNames[static_cast<int>(option.type)])},
                         {"defaultValue", option.default_value},
                         {"help", option.help}};
  if (!option.allowed.empty()) json["allowed"] = option.allowed;
  if (option.minimum) json["minimum"] = *option.minimum;
  if (option.maximum) json["maximum"] = *option.maximum;
  return json;
}

}  // namespace quantd::engine
