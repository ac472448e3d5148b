// The parser splits at '/' and compares part by part; there are no patterns.
#include "proto/names.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/sha256.h"

namespace quantd {
namespace {

constexpr size_t kResourceIdBytesMax =
    63;  // A DNS label, so that ids fit into host and metric names.
constexpr size_t kWorkerIdBytesMax = 128;
constexpr size_t kQuotedBytesMax = 100;

absl::Status Refuse(absl::string_view name, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("\"",
                                                 absl::CHexEscape(name.substr(0, kQuotedBytesMax)),
                                                 "\" is no name of the form ", expected));
}

absl::StatusOr<TenantResource> ParseBelowTenant(absl::string_view name,
                                                absl::string_view collection,
                                                bool (*is_id)(absl::string_view)) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() != 4 || parts[0] != "tenants" || parts[2] != collection ||
      !IsResourceId(parts[1]) || !is_id(parts[3])) {
    return Refuse(name, absl::StrCat("tenants/{tenant}/", collection, "/{id}"));
  }
  return TenantResource{std::string(parts[1]), std::string(parts[3])};
}

absl::StatusOr<TenantResource> ParseReference(absl::string_view text, absl::string_view collection,
                                              absl::string_view tenant) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '/');
  std::string full(text);
  if (parts.size() == 1) {
    full = absl::StrCat("tenants/", tenant, "/", collection, "/", text);
  } else if (parts.size() == 2) {
    full = absl::StrCat("tenants/", tenant, "/", text);
  }
  return ParseBelowTenant(full, collection, IsResourceId);
}

std::string Below(absl::string_view collection, const TenantResource& resource) {
  return absl::StrCat("tenants/", resource.tenant, "/", collection, "/", resource.id);
}

}  // namespace

bool IsResourceId(absl::string_view id) {
  if (id.empty() || id.size() > kResourceIdBytesMax || id.front() == '-' || id.back() == '-')
    return false;
  for (const char c : id) {
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '-') return false;
  }
  return true;
}

bool IsWorkerId(absl::string_view id) {
  if (id.empty() || id.size() > kWorkerIdBytesMax || !absl::ascii_isalnum(id.front())) return false;
  for (const char c : id) {
    if (!absl::ascii_isalnum(c) && c != '-' && c != '_' && c != '.') return false;
  }
  return true;
}

std::string TenantName(absl::string_view tenant) { return absl::StrCat("tenants/", tenant); }
std::string JobName(const TenantResource& job) { return Below("jobs", job); }
std::string SweepName(const TenantResource& sweep) { return Below("sweeps", sweep); }
std::string ArtifactName(const TenantResource& artifact) { return Below("artifacts", artifact); }
std::string WorkerName(absl::string_view worker) { return absl::StrCat("workers/", worker); }

absl::StatusOr<std::string> ParseTenantName(absl::string_view name) {
  if (name.empty()) return std::string(kDefaultTenant);
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() != 2 || parts[0] != "tenants" || !IsResourceId(parts[1])) {
    return Refuse(name, "tenants/{tenant}");
  }
  return std::string(parts[1]);
}

absl::StatusOr<TenantResource> ParseJobName(absl::string_view name) {
  return ParseBelowTenant(name, "jobs", IsResourceId);
}

absl::StatusOr<TenantResource> ParseSweepName(absl::string_view name) {
  return ParseBelowTenant(name, "sweeps", IsResourceId);
}

absl::StatusOr<TenantResource> ParseArtifactName(absl::string_view name) {
  return ParseBelowTenant(name, "artifacts", IsSha256Hex);
}

absl::StatusOr<std::string> ParseWorkerName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() != 2 || parts[0] != "workers" || !IsWorkerId(parts[1])) {
    return Refuse(name, "workers/{worker}");
  }
  return std::string(parts[1]);
}

absl::StatusOr<TenantResource> ParseJobReference(absl::string_view text, absl::string_view tenant) {
  return ParseReference(text, "jobs", tenant);
}

absl::StatusOr<TenantResource> ParseSweepReference(absl::string_view text,
                                                   absl::string_view tenant) {
  return ParseReference(text, "sweeps", tenant);
}

}  // namespace quantd
