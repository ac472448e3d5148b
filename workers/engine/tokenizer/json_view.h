// A JSON value together with its path, so that every complaint about a file says where in it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace quantd {

// Does not own the value. All errors are InvalidArgument: "$.model.vocab: must be an object, is a
// string".
class JsonView {
 public:
  JsonView(const nlohmann::json* value, std::string path) : value_(value), path_(std::move(path)) {}

  // Parses a document without trusting it: bounded nesting, no exception.
  static absl::StatusOr<nlohmann::json> Parse(absl::string_view text);

  const std::string& path() const { return path_; }
  const nlohmann::json& value() const { return *value_; }
  bool IsNull() const { return value_->is_null(); }

  // The member `name`; a null value where the object has none.
  absl::StatusOr<JsonView> Member(absl::string_view name) const;
  absl::StatusOr<std::vector<JsonView>> Elements() const;

  absl::StatusOr<std::string> String() const;
  absl::StatusOr<int64_t> Integer(int64_t minimum, int64_t maximum) const;

  // Of the member `name`, or `otherwise` where it is missing or null.
  absl::StatusOr<std::string> StringOr(absl::string_view name, absl::string_view otherwise) const;
  absl::StatusOr<bool> BoolOr(absl::string_view name, bool otherwise) const;
  absl::StatusOr<int64_t> IntegerOr(absl::string_view name, int64_t otherwise, int64_t minimum,
                                    int64_t maximum) const;
  // The member "type".
  absl::StatusOr<std::string> Type() const;

  // "PATH: words".
  absl::Status Error(absl::string_view words) const;
  // Unimplemented: the type is none of `supported`.
  absl::Status UnsupportedType(absl::string_view type, absl::string_view supported) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
};

}  // namespace quantd
