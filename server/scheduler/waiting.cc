// See waiting.h.
#include "server/scheduler/waiting.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "server/scheduler/matching.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/transitions.h"

namespace quantd {

absl::StatusOr<std::string> Waiting::Dependencies(const JobRow& row) {
  QD_ASSIGN_OR_RETURN(const auto dependencies, txn_.Dependencies(row.seq));
  std::string first;
  int64_t more = -1;
  for (const DependencyRow& dependency : dependencies) {
    if (IsEnded(dependency.state)) continue;
    ++more;
    if (more > 0) continue;
    QD_ASSIGN_OR_RETURN(const JobRow on, txn_.GetJob(dependency.on));
    first = absl::StrCat("waits for ", on.name, " (", StateWord(on.state), ")");
  }
  return more > 0 ? absl::StrCat(first, " and ", more, " more") : first;
}

absl::StatusOr<const Waiting::Fit*> Waiting::FitOf(int64_t needs_id) {
  const auto known = fits_.find(needs_id);
  if (known != fits_.end()) return &known->second;
  if (!workers_.has_value()) {
    QD_ASSIGN_OR_RETURN(workers_, txn_.Workers());
  }
  QD_ASSIGN_OR_RETURN(const std::string key, txn_.GetNeeds(needs_id));
  v1::JobSpec needs;
  if (!needs.ParseFromString(key)) return absl::DataLossError("stored needs do not parse");
  Fit fit;
  std::map<std::string, int> unmet;
  bool fits = false;
  for (const WorkerRow& worker : *workers_) {
    if (!IsAlive(worker, options_.lease_time, now_)) continue;
    const std::string lacks = NeedsUnmetBy(needs, worker.record);
    if (lacks.empty()) {
      fits = true;
      fit.only_gpu = fit.only_gpu && HasGpu(worker.record);
    }
    ++unmet[lacks];
  }
  if (!fits) {
    if (unmet.empty()) {
      fit.unfit = "no worker is connected";
    } else if (unmet.size() == 1) {
      fit.unfit = absl::StrCat("no worker ", unmet.begin()->first);
    } else {
      fit.unfit = absl::StrCat("no worker has all that it needs at once: none ",
                               absl::StrJoin(unmet, ", or ", [](std::string* out, const auto& e) {
                                 absl::StrAppend(out, e.first);
                               }));
    }
  }
  return &fits_.emplace(needs_id, std::move(fit)).first->second;
}

absl::StatusOr<std::string> Waiting::Queued(const JobRow& row, int64_t place) {
  QD_ASSIGN_OR_RETURN(const Fit* fit, FitOf(row.needs));
  if (!fit->unfit.empty()) return fit->unfit;
  if (row.not_before > now_) {
    return absl::StrCat("waits for retry until ",
                        absl::FormatTime("%H:%M:%S UTC", row.not_before, absl::UTCTimeZone()),
                        " after attempt ", row.record.attempt(), " ended: ",
                        row.record.has_failure() ? row.record.failure().message() : "given back");
  }
  if (row.sweep_seq != 0) {
    if (!sweeps_.has_value()) {
      QD_ASSIGN_OR_RETURN(sweeps_, txn_.SweepLoads());
    }
    for (const SweepLoad& load : *sweeps_) {
      if (load.sweep_seq == row.sweep_seq && load.running >= load.max_parallel) {
        return absl::StrCat("its sweep runs ", load.running, " of at most ", load.max_parallel,
                            " jobs at a time");
      }
    }
  }
  if (!loads_.has_value()) {
    QD_ASSIGN_OR_RETURN(loads_, TenantLoads::Read(txn_, options_.tenants, now_));
  }
  if (std::string blocked = loads_->Blocked(row.tenant, fit->only_gpu); !blocked.empty()) {
    return blocked;
  }
  if (place > 1) return absl::StrCat(place - 1, place == 2 ? " job" : " jobs", " ahead");
  return "next in line for a free worker";
}

absl::StatusOr<int64_t> Waiting::Place(const JobRow& row) {
  if (!counts_.has_value()) {
    QD_ASSIGN_OR_RETURN(counts_, txn_.TenantCounts());
    QD_ASSIGN_OR_RETURN(shares_, Shares::Read(txn_, options_.tenants));
  }
  int64_t all = 0;
  for (const TenantCount& count : *counts_) {
    if (count.tenant == row.tenant && count.priority == row.priority &&
        count.state == v1::JOB_STATE_QUEUED) {
      all = count.count;
    }
  }
  // Counted from the end: so the answer for a job just submitted, the most frequent question, takes
  // no walk over the queue, nor does a page of the newest jobs take one for each.
  auto& [seq, from] =
      from_.try_emplace({row.tenant, row.priority}, std::numeric_limits<int64_t>::max(), 0)
          .first->second;
  if (row.seq > seq) seq = std::numeric_limits<int64_t>::max(), from = 0;
  QD_ASSIGN_OR_RETURN(const int64_t between,
                      txn_.QueuedBetween(row.tenant, row.priority, row.seq, seq));
  seq = row.seq;
  from += between;
  return PlaceOf(row, all - from, *counts_, *shares_);
}

absl::Status Waiting::Fill(const JobRow& row, v1::Job* job) {
  job->clear_queue_position();
  switch (row.state) {
    case v1::JOB_STATE_PENDING: {
      QD_ASSIGN_OR_RETURN(*job->mutable_waiting_reason(), Dependencies(row));
      return absl::OkStatus();
    }
    case v1::JOB_STATE_QUEUED: {
      QD_ASSIGN_OR_RETURN(const int64_t place, Place(row));
      job->set_queue_position(place);
      QD_ASSIGN_OR_RETURN(*job->mutable_waiting_reason(), Queued(row, place));
      return absl::OkStatus();
    }
    case v1::JOB_STATE_CANCELLING:
      job->set_waiting_reason(absl::StrCat("waits for ", row.lease_worker, " to stop"));
      return absl::OkStatus();
    default:
      job->clear_waiting_reason();
      return absl::OkStatus();
  }
}

}  // namespace quantd
