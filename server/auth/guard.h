// The one gate of every call: whose token is it, may this role call the method, and is what the
// request names its own? Refuses what has no row in method_policy.h. Thread-safe.
//
// UNAUTHENTICATED: no good token. PERMISSION_DENIED: the role, or a parent of another tenant, or
// another worker's name. NOT_FOUND: a resource of another tenant, in the same words whether or not
// it is there.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "server/auth/identity.h"
#include "server/auth/method_policy.h"
#include "server/auth/token_book.h"

namespace quantd {

// ErrorInfo.reason of PERMISSION_DENIED.
inline constexpr char kReasonRole[] = "ROLE_NOT_ALLOWED";
inline constexpr char kReasonTenant[] = "OTHER_TENANT";
inline constexpr char kReasonWorker[] = "OTHER_WORKER";

// What is known of a call after the gate, also of a refused one: for the audit log.
struct Admission {
  Identity identity;
  const MethodPolicy* policy = nullptr;
  std::string resource;  // What the policy's field holds.
};

class Guard {
 public:
  // `tokens` is not owned; nullptr: nobody is asked for a token, and everyone may do everything.
  explicit Guard(const TokenBook* tokens) : tokens_(tokens) {}

  bool tokens_required() const { return tokens_ != nullptr; }
  // `authorization`: the header, empty when there was none. `request` may be null where it comes
  // later (an upload's stream).
  absl::Status Admit(absl::string_view authorization, absl::string_view service,
                     absl::string_view method, const google::protobuf::Message* request,
                     absl::Time now, Admission* admission) const;
  // For streams: whether the identity that was let in is still good.
  absl::Status Recheck(const Identity& identity, absl::Time now) const;

 private:
  const TokenBook* const tokens_;
};

}  // namespace quantd
