// Collects violations with a path that grows and shrinks as the checks walk through a message.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/validation/spec_validation.h"

namespace quantd {

// Whoever made so many mistakes sent no spec; the rest is not collected.
inline constexpr size_t kViolationsMax = 1000;

// A place in the request. Copies are cheap beside a submit's transaction.
class Field {
 public:
  Field(std::string path, SpecFindings* findings) : path_(std::move(path)), findings_(findings) {}

  Field operator/(absl::string_view name) const {
    return Field(absl::StrCat(path_, ".", name), findings_);
  }
  Field operator[](int index) const {
    return Field(absl::StrCat(path_, "[", index, "]"), findings_);
  }
  template <typename... Words>
  void Refuse(const Words&... words) const {
    if (findings_->violations.size() == kViolationsMax) return;
    findings_->violations.push_back({path_, absl::StrCat(words...)});
  }
  template <typename... Words>
  void Warn(const Words&... words) const {
    findings_->warnings.push_back(absl::StrCat(path_, ": ", words...));
  }
  // Of a list with `size` elements, how many to look at; refuses one with more than `most`.
  int UpTo(int most, int size) const {
    if (size > most) Refuse("has ", size, " entries; at most ", most);
    return std::min(size, most);
  }
  // Refuses a number outside [low, high].
  template <typename Number>
  void Range(Number value, Number low, Number high) const {
    if (value < low || value > high) Refuse(value, " is not in ", low, " ... ", high);
  }

 private:
  std::string path_;
  SpecFindings* findings_;
};

}  // namespace quantd
