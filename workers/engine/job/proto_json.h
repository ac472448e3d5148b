// Reading and writing structs as proto3-JSON, field by field: one Fields() function a struct serves
// both directions. Follows Protobuf's JSON mapping for the types that the specs use.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantd::engine {

// "group_size" -> "groupSize".
std::string LowerCamel(absl::string_view snake);

// One value each; InvalidArgument names `path`, what was found and what is wanted.
absl::Status ReadValue(const std::string& path, const nlohmann::json& json, std::string* out);
absl::Status ReadValue(const std::string& path, const nlohmann::json& json, bool* out);
absl::Status ReadInteger(const std::string& path, const nlohmann::json& json, int64_t minimum,
                         int64_t maximum, int64_t* out);
absl::Status ReadValue(const std::string& path, const nlohmann::json& json, int* out);
absl::Status ReadValue(const std::string& path, const nlohmann::json& json, int64_t* out);
absl::Status ReadValue(const std::string& path, const nlohmann::json& json, uint64_t* out);
// google.protobuf.Struct: any object.
absl::Status ReadValue(const std::string& path, const nlohmann::json& json, nlohmann::json* out);
// google.protobuf.Duration: "3s", "0.5s".
absl::Status ReadValue(const std::string& path, const nlohmann::json& json, absl::Duration* out);

// Reads the fields of one JSON object; remembers the first error.
class FieldReader {
 public:
  // `json` must outlive the reader.
  FieldReader(std::string path, const nlohmann::json& json);

  template <typename T>
  void Field(absl::string_view name, T& out) {
    if (const nlohmann::json* value = Take(name)) Update(Read(PathOf(name), *value, &out));
  }
  // Accepts the field and looks no further: it belongs to somebody else.
  void Ignore(absl::string_view name) { Take(name); }
  // Whether the object has the field, in either spelling, with a value that is not null.
  bool Has(absl::string_view name) const { return Find(name) != nullptr; }

  // The first error; an unknown field is one.
  absl::Status Finish();

 private:
  template <typename T>
  static absl::Status Read(const std::string& path, const nlohmann::json& json, T* out) {
    if constexpr (requires(FieldReader & reader, T & value) { Fields(reader, value); }) {
      FieldReader reader(path, json);
      Fields(reader, *out);
      return reader.Finish();
    } else {
      return ReadValue(path, json, out);
    }
  }
  template <typename T>
  static absl::Status Read(const std::string& path, const nlohmann::json& json,
                           std::vector<T>* out) {
    if (!json.is_array()) return NotAnArray(path, json);
    out->clear();
    for (size_t i = 0; i < json.size(); ++i) {
      absl::Status status = Read(absl::StrCat(path, "[", i, "]"), json[i], &out->emplace_back());
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  static absl::Status NotAnArray(const std::string& path, const nlohmann::json& json);

  std::string PathOf(absl::string_view name) const;
  const nlohmann::json* Find(absl::string_view name) const;
  const nlohmann::json* Take(absl::string_view name);
  void Update(absl::Status status);

  std::string path_;
  const nlohmann::json& json_;
  std::vector<std::string> known_;
  absl::Status status_;
};

// Writes the fields that differ from a default-made struct's.
class FieldWriter {
 public:
  explicit FieldWriter(nlohmann::json* out) : out_(*out) {}

  template <typename T>
  void Field(absl::string_view name, const T& value) {
    nlohmann::json json = Write(value);
    const bool empty = json.is_null() || json == 0 || json == false || json == "" ||
                       ((json.is_object() || json.is_array()) && json.empty());
    if (!empty) out_[LowerCamel(name)] = std::move(json);
  }
  void Ignore(absl::string_view) {}

 private:
  template <typename T>
  static nlohmann::json Write(const T& value) {
    if constexpr (requires(FieldWriter & writer, T & field) { Fields(writer, field); }) {
      nlohmann::json object = nlohmann::json::object();
      FieldWriter writer(&object);
      Fields(writer, const_cast<T&>(value));
      return object;
    } else if constexpr (sizeof(T) == 8 && std::is_integral_v<T>) {
      // 64-bit integers are strings, except zero, which is left out.
      return value == 0 ? nlohmann::json() : nlohmann::json(absl::StrCat(value));
    } else {
      return value;
    }
  }
  template <typename T>
  static nlohmann::json Write(const std::vector<T>& values) {
    nlohmann::json array = nlohmann::json::array();
    for (const T& value : values) array.push_back(Write(value));
    return array;
  }

  nlohmann::json& out_;
};

}  // namespace quantd::engine
