// Reads fields of one JSON object of a model's configuration, so that every message has the same
// shape: file, field, value, allowed.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

// The first error stays; later reads do nothing, so that a row of reads needs one check. Does not
// own the object.
class FieldReader {
 public:
  FieldReader(const nlohmann::json& object, absl::string_view origin, absl::string_view parent = "")
      : object_(object), origin_(origin), parent_(parent) {}

  // Whether the field is there and not null.
  bool Has(const char* field) const;
  // Whether it is there, if only as null.
  bool Exists(const char* field) const { return object_.contains(field); }
  const nlohmann::json& At(const char* field) const { return *object_.find(field); }
  void Fail(absl::string_view field, const nlohmann::json& value, absl::string_view allowed);
  // These leave `*out` as it is when the field is absent or null and not required.
  void Int(const char* field, int64_t low, int64_t high, bool required, int64_t* out);
  // Above 0 and finite.
  void Positive(const char* field, bool required, double* out);
  // `count` numbers above 0.
  void PositiveList(const char* field, size_t count, std::vector<double>* out);
  void Bool(const char* field, bool* out);
  void Text(const char* field, std::string* out);

  const absl::Status& status() const { return status_; }
  const std::string& origin() const { return origin_; }

 private:
  bool Present(const char* field, bool required);

  const nlohmann::json& object_;
  const std::string origin_;
  const std::string parent_;
  absl::Status status_;
};

}  // namespace quantd::engine
