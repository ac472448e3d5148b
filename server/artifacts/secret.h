// A secret of this installation and marks made with it, for names and tokens that clients carry but
// must not make up: upload names, page tokens. It is no user's credential.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// 32 random bytes, made on the first call and kept in the file (mode 0600).
absl::StatusOr<std::string> ReadOrMakeSecret(const std::string& path);
// The first 128 bits of HMAC-SHA-256, as 32 hexadecimal digits.
std::string Mac(absl::string_view secret, absl::string_view text);
bool ConstantTimeEqual(absl::string_view a, absl::string_view b);

// `inner` sealed for clients: base64url of mac + inner. Empty stays empty.
std::string SealToken(absl::string_view secret, absl::string_view inner);
// InvalidArgument with a field violation for a token that was not sealed with this secret.
absl::StatusOr<std::string> OpenToken(absl::string_view secret, absl::string_view token,
                                      absl::string_view field);

}  // namespace quantd
