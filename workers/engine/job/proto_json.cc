// Protobuf's JSON mapping for scalars: what it accepts, and words for what it does not.
#include "workers/engine/job/proto_json.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"

namespace quantd::engine {
namespace {

// What a message shows of a value that was not understood.
constexpr size_t kShownBytes = 80;

absl::Status Unexpected(const std::string& path, const nlohmann::json& json,
                        absl::string_view wanted) {
  std::string shown = json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (shown.size() > kShownBytes) shown = shown.substr(0, kShownBytes) + "...";
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", wanted, " expected, found ", shown));
}

}  // namespace

std::string LowerCamel(absl::string_view snake) {
  std::string camel;
  bool upper = false;
  for (char c : snake) {
    if (c == '_') {
      upper = true;
      continue;
    }
    camel.push_back(upper && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c);
    upper = false;
  }
  return camel;
}

absl::Status ReadValue(const std::string& path, const nlohmann::json& json, std::string* out) {
  if (!json.is_string()) return Unexpected(path, json, "a string");
  *out = json.get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadValue(const std::string& path, const nlohmann::json& json, bool* out) {
  if (!json.is_boolean()) return Unexpected(path, json, "true or false");
  *out = json.get<bool>();
  return absl::OkStatus();
}

absl::Status ReadInteger(const std::string& path, const nlohmann::json& json, int64_t minimum,
                         int64_t maximum, int64_t* out) {
  int64_t value = 0;
  bool good = false;
  if (json.is_number_unsigned()) {
    const uint64_t number = json.get<uint64_t>();
    good = number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    value = good ? static_cast<int64_t>(number) : 0;
  } else if (json.is_number_integer()) {
    value = json.get<int64_t>();
    good = true;
  } else if (json.is_number_float()) {
    const double number = json.get<double>();
    // 2^63 is the first double that an int64 cannot hold.
    good = std::abs(number) < 9223372036854775808.0 && number == std::floor(number);
    value = good ? static_cast<int64_t>(number) : 0;
  } else if (json.is_string()) {
    good = absl::SimpleAtoi(json.get<std::string>(), &value);
  }
  if (!good || value < minimum || value > maximum) {
    return Unexpected(path, json, absl::StrCat("a whole number from ", minimum, " to ", maximum));
  }
  *out = value;
  return absl::OkStatus();
}

absl::Status ReadValue(const std::string& path, const nlohmann::json& json, int* out) {
  int64_t value = 0;
  absl::Status status = ReadInteger(path, json, std::numeric_limits<int>::min(),
                                    std::numeric_limits<int>::max(), &value);
  if (status.ok()) *out = static_cast<int>(value);
  return status;
}

absl::Status ReadValue(const std::string& path, const nlohmann::json& json, int64_t* out) {
  return ReadInteger(path, json, std::numeric_limits<int64_t>::min(),
                     std::numeric_limits<int64_t>::max(), out);
}

absl::Status ReadValue(const std::string& path, const nlohmann::json& json, uint64_t* out) {
  if (json.is_number_unsigned()) {
    *out = json.get<uint64_t>();
    return absl::OkStatus();
  }
  if (json.is_string() && absl::SimpleAtoi(json.get<std::string>(), out)) return absl::OkStatus();
  int64_t value = 0;
  absl::Status status = ReadInteger(path, json, 0, std::numeric_limits<int64_t>::max(), &value);
  if (status.ok()) *out = static_cast<uint64_t>(value);
  return status;
}

absl::Status ReadValue(const std::string& path, const nlohmann::json& json, nlohmann::json* out) {
  if (!json.is_object()) return Unexpected(path, json, "an object");
  *out = json;
  return absl::OkStatus();
}

absl::Status ReadValue(const std::string& path, const nlohmann::json& json, absl::Duration* out) {
  double seconds = 0;
  const std::string text = json.is_string() ? json.get<std::string>() : "";
  const bool good =
      text.size() > 1 && text.back() == 's' &&
      absl::SimpleAtod(absl::string_view(text).substr(0, text.size() - 1), &seconds) &&
      std::isfinite(seconds);
  if (!good) return Unexpected(path, json, "a duration like \"3s\"");
  *out = absl::Seconds(seconds);
  return absl::OkStatus();
}

FieldReader::FieldReader(std::string path, const nlohmann::json& json)
    : path_(std::move(path)), json_(json) {
  if (!json.is_object()) {
    Update(Unexpected(path_.empty() ? "the spec" : path_, json, "an object"));
  }
}

absl::Status FieldReader::NotAnArray(const std::string& path, const nlohmann::json& json) {
  return Unexpected(path, json, "an array");
}

std::string FieldReader::PathOf(absl::string_view name) const {
  return path_.empty() ? std::string(name) : absl::StrCat(path_, ".", name);
}

const nlohmann::json* FieldReader::Find(absl::string_view name) const {
  if (!json_.is_object()) return nullptr;
  for (const std::string& spelling : {std::string(name), LowerCamel(name)}) {
    auto found = json_.find(spelling);
    if (found != json_.end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

const nlohmann::json* FieldReader::Take(absl::string_view name) {
  known_.emplace_back(name);
  const std::string camel = LowerCamel(name);
  if (camel != name && json_.is_object() && json_.contains(std::string(name)) &&
      json_.contains(camel)) {
    Update(absl::InvalidArgumentError(
        absl::StrCat(PathOf(name), ": given twice, as ", name, " and as ", camel)));
  }
  return Find(name);
}

void FieldReader::Update(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

absl::Status FieldReader::Finish() {
  if (!status_.ok()) return status_;
  for (const auto& item : json_.items()) {
    bool found = false;
    for (const std::string& name : known_) {
      found = found || item.key() == name || item.key() == LowerCamel(name);
    }
    if (!found) {
      return absl::InvalidArgumentError(absl::StrCat(PathOf(item.key()),
                                                     ": unknown field; the fields here are ",
                                                     absl::StrJoin(known_, ", ")));
    }
  }
  return absl::OkStatus();
}

}  // namespace quantd::engine
