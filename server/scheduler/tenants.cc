// See tenants.h.
#include "server/scheduler/tenants.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "proto/google/rpc/error_details.pb.h"

namespace quantd {
namespace {

// Queues get shorter and artifacts are removed over minutes, not seconds.
constexpr absl::Duration kQuotaRetry = absl::Seconds(30);

int64_t DayOf(absl::Time time) { return absl::ToUnixSeconds(time) / 86'400; }
absl::Time StartOf(int64_t day) { return absl::FromUnixSeconds(day * 86'400); }

struct Quota {
  const char* limit;  // The key of the configuration.
  std::string tenant;
  std::string value;
  std::string used;
  std::string words;
};

absl::Status Exceeded(const Quota& quota) {
  google::rpc::QuotaFailure detail;
  google::rpc::QuotaFailure::Violation& violation = *detail.add_violations();
  violation.set_subject(absl::StrCat("tenants/", quota.tenant, " ", quota.limit));
  violation.set_description(quota.words);
  absl::Status status =
      absl::ResourceExhaustedError(absl::StrCat("tenant ", quota.tenant, ": ", quota.words));
  status = WithReason(std::move(status), kReasonQuotaExceeded,
                      {{"tenant", quota.tenant},
                       {"limit", quota.limit},
                       {"value", quota.value},
                       {"used", quota.used}});
  return WithRetryAfter(WithDetail(std::move(status), detail), kQuotaRetry);
}

}  // namespace

const TenantPolicy& TenantPolicies::Of(const std::string& tenant) const {
  const auto found = named.find(tenant);
  return found == named.end() ? others : found->second;
}

absl::Status CheckQueuedQuota(ReadTxn& txn, const TenantPolicies& policies,
                              const std::string& tenant, int64_t more) {
  const int64_t max = policies.Of(tenant).queued_max;
  if (max == 0) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const auto counts, txn.TenantCounts());
  int64_t waiting = 0;
  for (const TenantCount& count : counts) {
    if (count.tenant == tenant &&
        (count.state == v1::JOB_STATE_PENDING || count.state == v1::JOB_STATE_QUEUED)) {
      waiting += count.count;
    }
  }
  if (waiting + more <= max) return absl::OkStatus();
  return Exceeded({"queued-max", tenant, absl::StrCat(max), absl::StrCat(waiting),
                   absl::StrCat(waiting, " of at most ", max, " jobs wait (queued-max), and ", more,
                                " more would; submit when some have run, cancel what is not needed "
                                "any more, or have the limit raised")});
}

absl::Status CheckArtifactQuota(ReadTxn& txn, const TenantPolicies& policies,
                                const std::string& tenant, int64_t more_bytes) {
  const int64_t max = policies.Of(tenant).artifact_bytes_max;
  if (max == 0) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const int64_t used, txn.ArtifactBytes(tenant));
  if (more_bytes == 0 ? used < max : used <= max - more_bytes) return absl::OkStatus();
  const std::string more =
      more_bytes == 0 ? "" : absl::StrCat(", and this one has ", FormatBytes(more_bytes));
  return Exceeded({"artifact-gib-max", tenant, absl::StrCat(max), absl::StrCat(used),
                   absl::StrCat("its artifacts have ", FormatBytes(used), " of at most ",
                                FormatBytes(max), " (artifact-gib-max)", more,
                                "; they go with the jobs that made them (quantd's "
                                "--retention-days and --artifact-grace-hours), or have the limit "
                                "raised")});
}

absl::StatusOr<TenantLoads> TenantLoads::Read(ReadTxn& txn, const TenantPolicies& policies,
                                              absl::Time now) {
  TenantLoads loads;
  loads.policies_ = &policies;
  const auto limited = [](const TenantPolicy& policy) {
    return policy.running_max > 0 || policy.gpu_hours_per_day > 0;
  };
  if (!limited(policies.others) &&
      std::none_of(policies.named.begin(), policies.named.end(),
                   [&](const auto& entry) { return limited(entry.second); })) {
    return loads;
  }
  const int64_t today = DayOf(now);
  QD_ASSIGN_OR_RETURN(const auto leased, txn.LeasedJobs());
  for (const LeasedJob& job : leased) {
    ++loads.running_[job.tenant];
    const absl::Time since = std::max(job.run_time, StartOf(today));
    if (job.gpus > 0 && since < now) {
      loads.gpu_hours_[job.tenant] +=
          absl::ToDoubleHours(now - since) * static_cast<double>(job.gpus);
    }
  }
  QD_ASSIGN_OR_RETURN(const auto booked, txn.GpuSeconds(today));
  for (const auto& [tenant, seconds] : booked) {
    loads.gpu_hours_[tenant] += static_cast<double>(seconds) / 3600;
  }
  return loads;
}

std::string TenantLoads::Blocked(const std::string& tenant, bool gpu) const {
  const TenantPolicy& policy = policies_->Of(tenant);
  const auto running = running_.find(tenant);
  if (policy.running_max > 0 && running != running_.end() &&
      running->second >= policy.running_max) {
    return absl::StrCat("tenant ", tenant, " runs ", running->second, " of at most ",
                        policy.running_max, " jobs at a time (running-max)");
  }
  const auto hours = gpu_hours_.find(tenant);
  if (gpu && policy.gpu_hours_per_day > 0 && hours != gpu_hours_.end() &&
      hours->second >= policy.gpu_hours_per_day) {
    return absl::StrFormat(
        "tenant %s has used %.1f of its %g GPU hours of today (gpu-hours-per-day); it goes on at "
        "00:00 UTC",
        tenant, hours->second, policy.gpu_hours_per_day);
  }
  return "";
}

absl::Status BookGpuTime(Txn& txn, const JobRow& row, absl::Time now) {
  if (row.gpus == 0 || row.run_time >= now) return absl::OkStatus();
  for (int64_t day = DayOf(row.run_time); day <= DayOf(now); ++day) {
    const absl::Duration part =
        std::min(now, StartOf(day + 1)) - std::max(row.run_time, StartOf(day));
    QD_RETURN_IF_ERROR(txn.AddGpuSeconds(row.tenant, day, absl::ToInt64Seconds(part) * row.gpus));
  }
  return absl::OkStatus();
}

}  // namespace quantd
