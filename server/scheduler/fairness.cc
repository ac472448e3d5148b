// See fairness.h.
#include "server/scheduler/fairness.h"

#include <algorithm>
#include <tuple>

#include "base/status_macros.h"

namespace quantd {
namespace {
// A lease at weight 1: divides evenly by most weights, and 2^63 holds 10^12 of them.
constexpr int64_t kLeaseCost = 5'040'000;
}  // namespace

absl::StatusOr<Shares> Shares::Read(ReadTxn& txn, const TenantPolicies& policies) {
  Shares shares;
  shares.policies_ = &policies;
  QD_ASSIGN_OR_RETURN(const auto rows, txn.TenantShares());
  for (const auto& [tenant, had] : rows) shares.had_[tenant] = had;
  return shares;
}

int64_t Shares::Cost(const std::string& tenant) const {
  return kLeaseCost / policies_->Of(tenant).weight;
}

int64_t Shares::Start(const std::string& tenant, int64_t ahead) const {
  const auto all = had_.find("");
  const auto own = had_.find(tenant);
  return std::max(all == had_.end() ? 0 : all->second, own == had_.end() ? 0 : own->second) +
         ahead * Cost(tenant);
}

absl::Status Shares::Charge(Txn& txn, const std::string& tenant) {
  const int64_t start = Start(tenant);
  had_[""] = start;
  had_[tenant] = start + Cost(tenant);
  return txn.PutTenantShares({{"", start}, {tenant, start + Cost(tenant)}});
}

int64_t Shares::LeasesBefore(int64_t start, const std::string& tenant, int64_t ahead) const {
  const int64_t room = start - Start(tenant, ahead);
  const int64_t cost = Cost(tenant);
  return room <= 0 ? 0 : (room + cost - 1) / cost;
}

const RunnableHead* NextOf(const std::vector<RunnableHead>& heads, const Shares& shares,
                           absl::Duration aging, absl::Time now) {
  // By priority: when its longest waiting job began to wait.
  std::map<int64_t, absl::Time> levels;
  for (const RunnableHead& head : heads) {
    absl::Time& since = levels.emplace(head.priority, now).first->second;
    since = std::min(since, head.queued_time);
  }
  std::optional<int64_t> level;
  double best = 0;
  for (const auto& [priority, since] : levels) {
    const double score = static_cast<double>(priority) + absl::FDivDuration(now - since, aging);
    if (level.has_value() && score < best) continue;  // Of equal scores the higher priority.
    level = priority;
    best = score;
  }
  const RunnableHead* next = nullptr;
  const auto order = [&](const RunnableHead& head) {
    return std::make_tuple(shares.Start(head.tenant), head.seq);
  };
  for (const RunnableHead& head : heads) {
    if (head.priority != *level) continue;
    if (next == nullptr || order(head) < order(*next)) next = &head;
  }
  return next;
}

int64_t PlaceOf(const JobRow& row, int64_t ahead, const std::vector<TenantCount>& counts,
                const Shares& shares) {
  // All of a higher priority, which their tenants will have had by then.
  std::map<std::string, int64_t> higher;
  for (const TenantCount& count : counts) {
    if (count.state == v1::JOB_STATE_QUEUED && count.priority > row.priority) {
      higher[count.tenant] += count.count;
    }
  }
  int64_t place = 1 + ahead;
  for (const auto& [tenant, count] : higher) place += count;
  const int64_t start = shares.Start(row.tenant, higher[row.tenant] + ahead);
  for (const TenantCount& count : counts) {
    if (count.state != v1::JOB_STATE_QUEUED || count.priority != row.priority ||
        count.tenant == row.tenant) {
      continue;
    }
    place += std::min(count.count, shares.LeasesBefore(start, count.tenant, higher[count.tenant]));
  }
  return place;
}

}  // namespace quantd
