// One row for every method of the API: who may call it, which field of the request says on whose
// behalf, and whether the call goes into the audit log. A method without a row is refused to
// everyone; access_test.cc fails for it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "google/protobuf/message.h"
#include "proto/quantd/v1/access.pb.h"

namespace quantd {

// What the request's field holds.
enum class Subject {
  kNone,
  kParent,    // "tenants/{t}" or below; empty stands for the default tenant.
  kResource,  // "tenants/{t}/jobs/{j}" and the like: of another tenant it does not exist.
  kWorker,    // "workers/{w}".
};

struct MethodPolicy {
  absl::string_view service;  // "quantd.v1.JobService".
  absl::string_view method;
  uint32_t roles;  // Bits 1 << v1::Role.
  Subject subject = Subject::kNone;
  absl::string_view field = "";  // Path in the request: "lease.worker".
  bool audited = false;

  bool Allows(v1::Role role) const { return (roles >> role & 1) != 0; }
};

absl::Span<const MethodPolicy> MethodPolicies();
// nullptr: there is no such row.
const MethodPolicy* FindMethodPolicy(absl::string_view service, absl::string_view method);

// The string at a path ("lease.worker") of a message; a path that is not there is our bug.
std::string FieldAt(const google::protobuf::Message& message, absl::string_view path);

}  // namespace quantd
