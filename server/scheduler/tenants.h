// What tenants get of the machines: weights, limits, and the words in which a limit refuses. The
// configuration (server/tenants_file.h) fills it; a tenant without an entry of its own has that of
// the others. 0 is no limit.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/store/job_store.h"

namespace quantd {

struct TenantPolicy {
  int64_t weight = 1;              // Its share of the leases, against other tenants' that wait.
  int64_t queued_max = 0;          // Jobs that wait, for workers or for other jobs.
  int64_t running_max = 0;         // Jobs that workers have.
  double gpu_hours_per_day = 0;    // Of a day in UTC, over all workers with a GPU.
  int64_t artifact_bytes_max = 0;  // Of its artifacts, each counted whole.
};

struct TenantPolicies {
  TenantPolicy others;
  std::map<std::string, TenantPolicy> named;
  const TenantPolicy& Of(const std::string& tenant) const;
};

inline constexpr char kReasonQuotaExceeded[] =
    "QUOTA_EXCEEDED";  // "tenant", "limit", "value", "used"

// ResourceExhausted + QUOTA_EXCEEDED + QuotaFailure + RetryInfo when `more` jobs would be too many
// to wait, or the tenant's artifacts are more than it may have.
absl::Status CheckQueuedQuota(ReadTxn& txn, const TenantPolicies& policies,
                              const std::string& tenant, int64_t more);
// The same for artifacts with `more_bytes` more; 0: for starting work that would make more.
absl::Status CheckArtifactQuota(ReadTxn& txn, const TenantPolicies& policies,
                                const std::string& tenant, int64_t more_bytes);

// What the tenants have of the workers now.
class TenantLoads {
 public:
  static absl::StatusOr<TenantLoads> Read(ReadTxn& txn, const TenantPolicies& policies,
                                          absl::Time now);
  // Why nothing of this tenant's is leased to a worker with (without) a GPU now, in words; empty
  // when something may be.
  std::string Blocked(const std::string& tenant, bool gpu) const;

 private:
  const TenantPolicies* policies_ = nullptr;
  std::map<std::string, int64_t> running_;
  std::map<std::string, double> gpu_hours_;  // Of today; of tenants with a limit.
};

// The GPU time of an attempt goes into the books of the days that it lasted.
absl::Status BookGpuTime(Txn& txn, const JobRow& row, absl::Time now);

}  // namespace quantd
