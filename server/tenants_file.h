// The YAML file of --tenants: weights and limits by tenant, as docs/quotas.md describes them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/scheduler/tenants.h"

namespace quantd {

// InvalidArgument names file, line and what to write. What an entry leaves out is that of "*".
absl::StatusOr<TenantPolicies> ReadTenants(const std::string& path);

}  // namespace quantd
