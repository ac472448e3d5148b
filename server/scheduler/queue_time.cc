// What time alone brings: expired leases, the three clocks, retention; and the amnesty at start.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "server/scheduler/queue_operation.h"

namespace quantd {
namespace {

constexpr int64_t kTickBatch =
    200;  // Of each kind; a tick a second works off 200 a second without a long commit.

v1::Failure MakeFailure(v1::ErrorClass error_class, std::string message, std::string remedy) {
  v1::Failure failure;
  failure.set_error_class(error_class);
  failure.set_code(static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  failure.set_message(std::move(message));
  failure.set_remedy(std::move(remedy));
  return failure;
}

absl::Status ExpireLeases(QueueOperation& op) {
  if (op.options.faults.never_reclaim) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const auto expired, op.txn.ExpiredLeases(op.now, kTickBatch));
  for (const int64_t seq : expired) {
    QD_ASSIGN_OR_RETURN(JobRow row, op.txn.GetJob(seq));
    ++op.effects.counters.lease_expirations;
    QD_RETURN_IF_ERROR(op.EndAttempt(
        &row, MakeFailure(v1::ERROR_CLASS_WORKER_LOST,
                          absl::StrCat(row.lease_worker, " was not heard of for ",
                                       absl::FormatDuration(op.options.lease_time)),
                          "look at the worker's log and at its network; the job is tried again")));
    FaultPoint("queue/lease/reclaimed");
  }
  return absl::OkStatus();
}

absl::Status RunClock(QueueOperation& op, JobRow* row) {
  const v1::Limits& limits = row->record.spec().limits();
  if (row->state == v1::JOB_STATE_CANCELLING) {
    return op.Change(row, JobCommand::kCancelOverdue,
                     absl::StrCat(row->lease_worker, " did not stop in time"));
  }
  ++op.effects.counters.clock_timeouts;
  if (row->state == v1::JOB_STATE_QUEUED) {
    return op.EndAttempt(
        row, MakeFailure(v1::ERROR_CLASS_QUEUE_TIMEOUT,
                         absl::StrCat("no worker took the job within ",
                                      absl::FormatDuration(FromProto(limits.queue_time()))),
                         "start workers that fit it, or raise limits.queue_time"));
  }
  if (limits.has_run_time() && op.now >= row->run_time + FromProto(limits.run_time())) {
    return op.EndAttempt(
        row, MakeFailure(v1::ERROR_CLASS_RUN_TIMEOUT,
                         absl::StrCat("the attempt took longer than ",
                                      absl::FormatDuration(FromProto(limits.run_time()))),
                         "raise limits.run_time"));
  }
  return op.EndAttempt(
      row, MakeFailure(
               v1::ERROR_CLASS_NO_PROGRESS,
               absl::StrCat("no progress for ", absl::FormatDuration(op.now - row->progress_time)),
               "look at the job's log; raise limits.no_progress_time if "
               "one step may take so long"));
}

absl::Status RunClocks(QueueOperation& op) {
  QD_ASSIGN_OR_RETURN(const auto due, op.txn.DueClocks(op.now, kTickBatch));
  for (const int64_t seq : due) {
    QD_ASSIGN_OR_RETURN(JobRow row, op.txn.GetJob(seq));
    QD_RETURN_IF_ERROR(RunClock(op, &row));
  }
  return absl::OkStatus();
}

absl::Status ForgetWorkers(QueueOperation& op) {
  QD_ASSIGN_OR_RETURN(const auto workers, op.txn.Workers());
  for (const WorkerRow& worker : workers) {
    if (worker.last_seen >= op.now - op.options.lost_worker_time) continue;
    QD_ASSIGN_OR_RETURN(const auto leases, op.txn.WorkerLeases(worker.name));
    if (leases.empty()) QD_RETURN_IF_ERROR(op.txn.DeleteWorker(worker.name));
  }
  return absl::OkStatus();
}

}  // namespace

namespace bodies {

absl::StatusOr<TickResponse> Tick(QueueOperation& op, const TickRequest& request) {
  QD_RETURN_IF_ERROR(ExpireLeases(op), "reclaiming expired leases");
  QD_RETURN_IF_ERROR(RunClocks(op), "looking at the jobs' clocks");
  QD_RETURN_IF_ERROR(ForgetWorkers(op), "forgetting lost workers");
  QD_RETURN_IF_ERROR(
      op.txn.DeleteRequestsBefore(op.now - op.options.request_id_time, kTickBatch).status());
  if (op.options.retention < absl::InfiniteDuration()) {
    QD_ASSIGN_OR_RETURN(op.effects.counters.jobs_removed,
                        op.txn.DeleteJobsEndedBefore(op.now - op.options.retention, kTickBatch),
                        "removing old jobs");
  }
  QD_ASSIGN_OR_RETURN(const bool ready, op.txn.BecomesRunnable(request.last_tick, op.now));
  op.effects.runnable = op.effects.runnable || ready;
  return TickResponse();
}

absl::StatusOr<RenewResponse> Renew(QueueOperation& op, const RenewRequest&) {
  QD_ASSIGN_OR_RETURN(const auto leased, op.txn.Leased());
  for (const int64_t seq : leased) {
    QD_ASSIGN_OR_RETURN(JobRow row, op.txn.GetJob(seq));
    row.lease_expires = op.now + op.options.lease_time;
    // Nobody could report progress while the scheduler was away.
    row.progress_time = op.now;
    row.clock_due = std::max(ClockDue(row), row.lease_expires);
    QD_RETURN_IF_ERROR(op.txn.UpdateJob(&row));
    FaultPoint("queue/lease/renewed");
  }
  return RenewResponse();
}

}  // namespace bodies
}  // namespace quantd
