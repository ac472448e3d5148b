// Credentials taken out of text before it is logged, stored or sent: those of a known shape (a Hub
// token, an AWS key id, an access token of ours, a password in a URL), and given values. What has
// no shape and was not given cannot be found; secrets belong where they are given.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantd {

// Each credential of a known shape becomes its harmless start and "***".
std::string RedactSecrets(absl::string_view text);
// Whether RedactSecrets would change the text.
bool HoldsSecret(absl::string_view text);

// Also takes out given values, as they are and as a JSON string would hold them. Thread-safe.
class Redactor {
 public:
  // Values of fewer than 6 bytes are left alone: they would eat harmless text.
  explicit Redactor(std::vector<std::string> values = {});
  std::string Apply(absl::string_view text) const;

 private:
  std::vector<std::string> values_;  // The longest first.
};

}  // namespace quantd
