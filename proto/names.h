// Resource names: "tenants/{t}/jobs/{j}", ".../sweeps/{s}", ".../artifacts/{sha256}",
// "workers/{w}". Built and taken apart only here, with one rule for every part, so that no name
// that passed can climb out of a folder, break a log line or look like another one.
//
// A tenant, job or sweep: 1-63 of [a-z0-9-], not starting or ending with '-'. An artifact: 64
// lower-case hexadecimal digits. A worker: 1-128 of [A-Za-z0-9._-], starting with a letter or digit
// (host names fit).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

inline constexpr char kDefaultTenant[] = "default";

// A name below a tenant, in its two variable parts.
struct TenantResource {
  std::string tenant;
  std::string id;
};

std::string TenantName(absl::string_view tenant);
std::string JobName(const TenantResource& job);
std::string SweepName(const TenantResource& sweep);
std::string ArtifactName(const TenantResource& artifact);
std::string WorkerName(absl::string_view worker);

// InvalidArgument says what was expected and quotes what came. The *field* of a request is the
// caller's to add. "tenants/{t}" to "{t}"; empty stands for "tenants/default".
absl::StatusOr<std::string> ParseTenantName(absl::string_view name);
absl::StatusOr<TenantResource> ParseJobName(absl::string_view name);
absl::StatusOr<TenantResource> ParseSweepName(absl::string_view name);
absl::StatusOr<TenantResource> ParseArtifactName(absl::string_view name);
absl::StatusOr<std::string> ParseWorkerName(absl::string_view name);

// "jobs/{j}" or "tenants/{t}/jobs/{j}" as users write them; a bare "{j}" too. The tenant fills the
// gap.
absl::StatusOr<TenantResource> ParseJobReference(absl::string_view text, absl::string_view tenant);
absl::StatusOr<TenantResource> ParseSweepReference(absl::string_view text,
                                                   absl::string_view tenant);

// A tenant's, job's or sweep's variable part.
bool IsResourceId(absl::string_view id);
bool IsWorkerId(absl::string_view id);

}  // namespace quantd
