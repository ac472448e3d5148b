// What clients see of jobs: records, lists, events.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/scheduler/errors.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/resources.h"
#include "server/scheduler/waiting.h"

namespace quantd {
absl::StatusOr<v1::Job> PresentWholeJob(ReadTxn& txn, const JobRow& row,
                                        const QueueOptions& options, absl::Time now) {
  v1::Job job = PresentJob(row);
  QD_ASSIGN_OR_RETURN(*job.mutable_spec(), txn.GetSpec(row.seq));
  QD_ASSIGN_OR_RETURN(v1::Job outcome, txn.GetOutcome(row.seq));
  if (outcome.has_result()) job.mutable_result()->Swap(outcome.mutable_result());
  if (outcome.has_output()) job.mutable_output()->Swap(outcome.mutable_output());
  QD_RETURN_IF_ERROR(Waiting(&txn, &options, now).Fill(row, &job));
  return job;
}

absl::StatusOr<v1::Job> Queue::GetJob(const v1::GetJobRequest& request, absl::Time now) {
  QD_RETURN_IF_ERROR(TenantOf(request.name(), "jobs").status());
  v1::Job job;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const JobRow row, txn.GetJob(request.name()));
    QD_ASSIGN_OR_RETURN(job, PresentWholeJob(txn, row, options_, now));
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
    Waiting waiting(&txn, &options_, now);
    for (const JobRow& row : rows) {
      v1::Job& job = *response.add_jobs() = PresentJob(row);
      QD_RETURN_IF_ERROR(waiting.Fill(row, &job));
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
  filter.bytes_max = kPageBytes;
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
