// What clients see of jobs: records, lists, events, and why a job waits.
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "server/scheduler/errors.h"
#include "server/scheduler/matching.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/resources.h"

namespace quantd {
namespace {

absl::StatusOr<std::string> WaitsForJobs(ReadTxn& txn, const JobRow& row) {
  QD_ASSIGN_OR_RETURN(const auto dependencies, txn.Dependencies(row.seq));
  std::string first;
  int64_t more = -1;
  for (const DependencyRow& dependency : dependencies) {
    if (IsEnded(dependency.state)) continue;
    ++more;
    if (more > 0) continue;
    QD_ASSIGN_OR_RETURN(const JobRow on, txn.GetJob(dependency.on));
    first = absl::StrCat("waits for ", on.name, " (", StateWord(on.state), ")");
  }
  return more > 0 ? absl::StrCat(first, " and ", more, " more") : first;
}

// What no alive worker offers, in words; empty when one fits.
absl::StatusOr<std::string> NoWorkerFits(ReadTxn& txn, const JobRow& row, absl::Duration lease_time,
                                         absl::Time now) {
  QD_ASSIGN_OR_RETURN(const std::string key, txn.GetNeeds(row.needs));
  v1::JobSpec needs;
  if (!needs.ParseFromString(key)) return absl::DataLossError("stored needs do not parse");
  QD_ASSIGN_OR_RETURN(const auto workers, txn.Workers());
  std::map<std::string, int> unmet;
  for (const WorkerRow& worker : workers) {
    if (!IsAlive(worker, lease_time, now)) continue;
    const std::string lacks = NeedsUnmetBy(needs, worker.record);
    if (lacks.empty()) return "";
    ++unmet[lacks];
  }
  if (unmet.empty()) return "no worker is connected";
  if (unmet.size() == 1) return absl::StrCat("no worker ", unmet.begin()->first);
  return absl::StrCat("no worker has all that it needs at once: none ",
                      absl::StrJoin(unmet, ", or ", [](std::string* out, const auto& entry) {
                        absl::StrAppend(out, entry.first);
                      }));
}

}  // namespace

absl::StatusOr<std::string> WaitingReason(ReadTxn& txn, const JobRow& row, int64_t position,
                                          absl::Duration lease_time, absl::Time now) {
  if (row.state == v1::JOB_STATE_PENDING) return WaitsForJobs(txn, row);
  if (row.state == v1::JOB_STATE_CANCELLING) {
    return absl::StrCat("waits for ", row.lease_worker, " to stop");
  }
  if (row.state != v1::JOB_STATE_QUEUED) return "";
  QD_ASSIGN_OR_RETURN(const std::string unfit, NoWorkerFits(txn, row, lease_time, now));
  if (!unfit.empty()) return unfit;
  if (row.not_before > now) {
    return absl::StrCat("waits for retry until ",
                        absl::FormatTime("%H:%M:%S UTC", row.not_before, absl::UTCTimeZone()),
                        " after attempt ", row.record.attempt(), " ended: ",
                        row.record.has_failure() ? row.record.failure().message() : "given back");
  }
  if (row.sweep_seq != 0) {
    QD_ASSIGN_OR_RETURN(const auto loads, txn.SweepLoads());
    for (const SweepLoad& load : loads) {
      if (load.sweep_seq == row.sweep_seq && load.running >= load.max_parallel) {
        return absl::StrCat("its sweep runs ", load.running, " of at most ", load.max_parallel,
                            " jobs at a time");
      }
    }
  }
  if (position > 1) {
    return absl::StrCat(position - 1, position == 2 ? " job" : " jobs", " ahead");
  }
  return "next in line for a free worker";
}

absl::StatusOr<v1::Job> PresentWholeJob(ReadTxn& txn, const JobRow& row, absl::Duration lease_time,
                                        absl::Time now) {
  v1::Job job = PresentJob(row);
  QD_ASSIGN_OR_RETURN(*job.mutable_spec(), txn.GetSpec(row.seq));
  QD_ASSIGN_OR_RETURN(v1::Job outcome, txn.GetOutcome(row.seq));
  if (outcome.has_result()) job.mutable_result()->Swap(outcome.mutable_result());
  if (outcome.has_output()) job.mutable_output()->Swap(outcome.mutable_output());
  if (row.state == v1::JOB_STATE_QUEUED) {
    QD_ASSIGN_OR_RETURN(const int64_t ahead, txn.JobsAhead(row.priority, row.seq));
    job.set_queue_position(ahead + 1);
  }
  QD_ASSIGN_OR_RETURN(*job.mutable_waiting_reason(),
                      WaitingReason(txn, row, job.queue_position(), lease_time, now));
  return job;
}

absl::StatusOr<v1::Job> Queue::GetJob(const v1::GetJobRequest& request, absl::Time now) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "jobs").status());
  v1::Job job;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const JobRow row, txn.GetJob(request.name()));
    QD_ASSIGN_OR_RETURN(job, PresentWholeJob(txn, row, options_.lease_time, now));
    return absl::OkStatus();
  }));
  return job;
}

absl::StatusOr<v1::ListJobsResponse> Queue::ListJobs(const v1::ListJobsRequest& request,
                                                     absl::Time now) {
  JobFilter filter;
  QD_ASSIGN_OR_RETURN(filter.tenant, ParseParent(request.parent()));
  QD_ASSIGN_OR_RETURN(const int64_t size, PageSize(request.page_size()));
  v1::ListJobsRequest same = request;
  same.clear_page_size();
  same.clear_page_token();
  const std::string key = absl::StrCat("jobs ", DeterministicBytes(same));
  QD_ASSIGN_OR_RETURN(filter.before_seq, ParsePageToken(request.page_token(), key));
  filter.limit = size + 1;
  for (const int state : request.states())
    filter.states.push_back(static_cast<v1::JobState>(state));
  for (const auto& [label, value] : request.labels()) filter.labels.emplace_back(label, value);
  v1::ListJobsResponse response;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    if (!request.sweep().empty()) {
      QD_ASSIGN_OR_RETURN(const SweepRow sweep, txn.GetSweep(request.sweep()));
      if (sweep.tenant != filter.tenant) {
        return absl::NotFoundError(absl::StrCat(request.sweep(), " does not exist"));
      }
      filter.sweep_seq = sweep.seq;
    }
    QD_ASSIGN_OR_RETURN(auto rows, txn.ListJobs(filter));
    if (static_cast<int64_t>(rows.size()) > size) {
      rows.resize(size);
      response.set_next_page_token(MakePageToken(key, rows.back().seq));
    }
    for (const JobRow& row : rows) {
      v1::Job& job = *response.add_jobs() = PresentJob(row);
      QD_ASSIGN_OR_RETURN(*job.mutable_spec(), txn.GetSpec(row.seq));
      if (job.spec().has_quantize()) job.mutable_spec()->mutable_quantize()->clear_options();
    }
    return absl::OkStatus();
  }),
                     "listing jobs");
  return response;
}

absl::StatusOr<EventPage> Queue::ReadEvents(const v1::WatchJobRequest& request, int64_t limit) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "jobs").status());
  if (request.after_sequence() < 0) return FieldError("after_sequence", "is negative");
  EventFilter filter;
  QD_ASSIGN_OR_RETURN(filter.kinds, EventKinds(request.kinds()));
  filter.after = request.after_sequence();
  filter.limit = limit;
  EventPage page;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const JobRow row, txn.GetJob(request.name()));
    QD_ASSIGN_OR_RETURN(auto rows, txn.ReadEvents(row.seq, filter));
    // A page that stopped early ends at its last event; a whole one covers all that the filter left
    // out too.
    page.at_end = rows.empty();
    page.next_sequence =
        rows.empty() ? std::max(filter.after, row.last_sequence) : rows.back().event.sequence();
    for (EventRow& event : rows) page.events.push_back(std::move(event.event));
    page.finished = IsEnded(row.state) && page.next_sequence >= row.last_sequence;
    page.at_end = page.at_end || page.next_sequence >= row.last_sequence;
    return absl::OkStatus();
  }));
  return page;
}

}  // namespace quantd
