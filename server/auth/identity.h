// Whom a call is made for. It is found anew for each call from the call's own token: gRPC 1.51
// keeps one AuthContext a connection, so an identity put there would mix the users who share one.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "proto/quantd/v1/access.pb.h"

namespace quantd {

struct Identity {
  std::string name = {};  // "tokens/{id}", or "local" where nobody is asked for a token.
  v1::Role role = v1::ROLE_UNSPECIFIED;
  std::string tenant = {};  // Empty: every tenant.
  std::string worker = {};  // The one worker that it may act as; empty: any.

  bool MayUseTenant(absl::string_view other) const { return tenant.empty() || tenant == other; }
};

// Whoever reaches a scheduler that asks for no tokens.
inline Identity LocalIdentity() { return {.name = "local", .role = v1::ADMIN}; }

}  // namespace quantd
