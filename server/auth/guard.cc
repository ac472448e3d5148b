// Fails closed: only what is seen to be the caller's own passes.
#include "server/auth/guard.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "proto/names.h"

namespace quantd {
namespace {

constexpr size_t kQuotedBytesMax = 100;

std::string RoleWord(v1::Role role) { return absl::AsciiStrToLower(v1::Role_Name(role)); }

// Whether a name is of the tenant: "tenants/{t}" or below it, no other form.
bool IsOfTenant(absl::string_view name, absl::string_view tenant) {
  if (!absl::ConsumePrefix(&name, "tenants/") || !absl::ConsumePrefix(&name, tenant)) return false;
  return name.empty() || name[0] == '/';
}

// A worker's further slots are workers of its own name with a number: "gpu-1", "gpu-1-2".
bool IsSlotOf(absl::string_view worker, absl::string_view name) {
  if (!absl::ConsumePrefix(&worker, "workers/") || !absl::ConsumePrefix(&worker, name))
    return false;
  int slot = 0;
  return worker.empty() || (absl::ConsumePrefix(&worker, "-") && absl::SimpleAtoi(worker, &slot) &&
                            slot > 1 && worker == absl::StrCat(slot));
}

absl::Status CheckSubject(const Identity& identity, Subject subject, absl::string_view name) {
  const std::string quoted = absl::CHexEscape(name.substr(0, kQuotedBytesMax));
  switch (subject) {
    case Subject::kNone:
      return absl::OkStatus();
    case Subject::kParent:
      if (identity.tenant.empty() || IsOfTenant(name, identity.tenant) ||
          (name.empty() && identity.tenant == kDefaultTenant)) {
        return absl::OkStatus();
      }
      return WithReason(absl::PermissionDeniedError(absl::StrCat("the access token is of tenant \"",
                                                                 identity.tenant,
                                                                 "\" and not of \"", quoted, "\"")),
                        kReasonTenant);
    case Subject::kResource:
      if (identity.tenant.empty() || IsOfTenant(name, identity.tenant)) return absl::OkStatus();
      return absl::NotFoundError(absl::StrCat("\"", quoted, "\" does not exist"));
    case Subject::kWorker:
      if (identity.worker.empty() || IsSlotOf(name, identity.worker)) return absl::OkStatus();
      return WithReason(absl::PermissionDeniedError(absl::StrCat("the access token is of worker \"",
                                                                 identity.worker,
                                                                 "\" and not of \"", quoted, "\"")),
                        kReasonWorker);
  }
  return absl::InternalError("a subject without a rule");
}

}  // namespace

absl::Status Guard::Admit(absl::string_view authorization, absl::string_view service,
                          absl::string_view method, const google::protobuf::Message* request,
                          absl::Time now, Admission* admission) const {
  admission->policy = FindMethodPolicy(service, method);
  if (admission->policy == nullptr) {
    return absl::PermissionDeniedError(absl::StrCat(service, "/", method, " has no access policy"));
  }
  const MethodPolicy& policy = *admission->policy;
  if (request != nullptr && !policy.field.empty()) {
    admission->resource = FieldAt(*request, policy.field);
  }
  if (tokens_ == nullptr) {
    admission->identity = LocalIdentity();
    return absl::OkStatus();
  }
  QD_ASSIGN_OR_RETURN(admission->identity, tokens_->Identify(authorization, now));
  const Identity& identity = admission->identity;
  if (!policy.Allows(identity.role)) {
    return WithReason(absl::PermissionDeniedError(absl::StrCat(identity.name, " has the role ",
                                                               RoleWord(identity.role),
                                                               ", which may not call ", method)),
                      kReasonRole);
  }
  return CheckSubject(identity, policy.subject, admission->resource);
}

absl::Status Guard::Recheck(const Identity& identity, absl::Time now) const {
  return tokens_ == nullptr ? absl::OkStatus() : tokens_->Recheck(identity, now);
}

}  // namespace quantd
