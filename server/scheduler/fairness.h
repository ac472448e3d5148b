// Who is next. A worker takes from the jobs that it can do:
//   1. Of the priorities that wait, the one with the greatest score: the priority, and one more for
//      every `aging` that its longest waiting job has waited. So no priority waits for ever.
//   2. Within it, of the tenants the one that has had least for its weight (start-time fair
//      queuing, Goyal, Vin and Cheng 1996: a lease costs 1/weight, and who comes back from a time
//      without jobs begins where the others are). So leases go by the weights as long as all have
//      jobs.
//   3. Of the tenant the job that was submitted first.
// What tenants have had stands in the store: schedulers share it, and a restart changes nothing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/scheduler/tenants.h"
#include "server/store/job_store.h"

namespace quantd {

// What tenants have had, in units of one lease at weight 1. Ordered as they are served.
class Shares {
 public:
  static absl::StatusOr<Shares> Read(ReadTxn& txn, const TenantPolicies& policies);
  // What has to be had when the tenant's next lease but `ahead` begins.
  int64_t Start(const std::string& tenant, int64_t ahead = 0) const;
  // A lease for the tenant.
  absl::Status Charge(Txn& txn, const std::string& tenant);
  // Leases of this tenant that begin before one does that starts at `start`, from its next but
  // `ahead` on.
  int64_t LeasesBefore(int64_t start, const std::string& tenant, int64_t ahead) const;

 private:
  int64_t Cost(const std::string& tenant) const;

  const TenantPolicies* policies_ = nullptr;
  std::map<std::string, int64_t> had_;  // "": where the last one served began.
};

// The next of these by the rules above; null when there is none. `heads`: of each tenant and
// priority at least the job that was submitted first.
const RunnableHead* NextOf(const std::vector<RunnableHead>& heads, const Shares& shares,
                           absl::Duration aging, absl::Time now);

// A QUEUED job's place in the queue, from 1, if workers did everything and nothing came or waited
// long enough to overtake. `ahead`: QUEUED jobs of its tenant and priority before it.
int64_t PlaceOf(const JobRow& row, int64_t ahead, const std::vector<TenantCount>& counts,
                const Shares& shares);

}  // namespace quantd
