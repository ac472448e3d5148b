// Every state change of every job passes through Change; every end of an attempt without success
// through EndAttempt.
#include "server/scheduler/queue_operation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/scheduler/resources.h"
#include "server/scheduler/tenants.h"

namespace quantd {

void AddCounters(const QueueCounters& more, QueueCounters* sum) {
  for (const auto& [kind, count] : more.jobs_submitted) sum->jobs_submitted[kind] += count;
  for (const auto& [key, count] : more.jobs_ended) sum->jobs_ended[key] += count;
  sum->leases_granted += more.leases_granted;
  sum->lease_expirations += more.lease_expirations;
  sum->fenced_writes += more.fenced_writes;
  sum->idempotent_replays += more.idempotent_replays;
  sum->repeated_completions += more.repeated_completions;
  sum->duplicate_completions += more.duplicate_completions;
  sum->retries_scheduled += more.retries_scheduled;
  sum->releases += more.releases;
  sum->clock_timeouts += more.clock_timeouts;
  sum->jobs_removed += more.jobs_removed;
  for (const auto& [limit, count] : more.quota_refusals) sum->quota_refusals[limit] += count;
}

absl::Time ClockDue(const JobRow& row) {
  const v1::Limits& limits = row.record.spec().limits();
  switch (row.state) {
    case v1::JOB_STATE_QUEUED:
      return limits.has_queue_time() ? row.queued_time + FromProto(limits.queue_time())
                                     : absl::InfiniteFuture();
    case v1::JOB_STATE_RUNNING: {
      const absl::Duration quiet =
          limits.has_no_progress_time() ? FromProto(limits.no_progress_time()) : kDefaultNoProgress;
      const absl::Time run_end = limits.has_run_time() ? row.run_time + FromProto(limits.run_time())
                                                       : absl::InfiniteFuture();
      return std::min(run_end, row.progress_time + quiet);
    }
    case v1::JOB_STATE_CANCELLING:
      return row.clock_due;  // Set when the cancel came in.
    default:
      return absl::InfiniteFuture();
  }
}

absl::Status QueueOperation::Append(JobRow* row, v1::JobEvent event) {
  *event.mutable_time() = ToProto(now);
  event.set_attempt(row->record.attempt());
  return txn.AppendEvent(row, std::move(event));
}

absl::Status QueueOperation::Save(JobRow* row) {
  QD_RETURN_IF_ERROR(txn.UpdateJob(row));
  effects.changes.push_back({.job = row->name,
                             .sweep = row->record.sweep(),
                             .last_sequence = row->last_sequence,
                             .state = row->state});
  return absl::OkStatus();
}

absl::Status QueueOperation::Enter(JobRow* row, v1::JobState state, const std::string& reason) {
  if (IsLeased(row->state) && !IsLeased(state)) {
    QD_RETURN_IF_ERROR(BookGpuTime(txn, *row, now));
    // Room for one more where the tenant's limit was reached.
    if (options.tenants.Of(row->tenant).running_max > 0) effects.runnable = true;
    row->lease_worker.clear();
    row->lease_expires = absl::InfiniteFuture();
    row->record.clear_worker();
    // Room for one more of its sweep.
    if (row->sweep_seq != 0) effects.runnable = true;
  }
  row->state = state;
  if (state == v1::JOB_STATE_QUEUED) {
    row->queued_time = now;
    effects.runnable = effects.runnable || row->not_before <= now;
  }
  if (state == v1::JOB_STATE_RUNNING) {
    row->run_time = row->progress_time = now;
    if (!row->record.has_start_time()) *row->record.mutable_start_time() = ToProto(now);
  }
  if (state == v1::JOB_STATE_CANCELLING) {
    row->clock_due = now + options.cancel_grace;
    row->record.set_cancel_requested(true);
    row->record.set_waiting_reason(reason);  // What ReportJob hands to the worker.
  }
  if (IsEnded(state)) {
    row->end_time = now;
    *row->record.mutable_end_time() = ToProto(now);
    ended_.push_back(row->seq);
    ++effects.counters.jobs_ended[{KindOf(row->record.spec()), state}];
    if (row->sweep_seq != 0) sweeps_.insert(row->sweep_seq);
  }
  return absl::OkStatus();
}

absl::Status QueueOperation::Change(JobRow* row, JobCommand command, const std::string& reason) {
  QD_ASSIGN_OR_RETURN(const v1::JobState next, NextState(row->state, command), row->name);
  if (next == row->state) return absl::OkStatus();
  const std::string worker = row->lease_worker;
  QD_RETURN_IF_ERROR(Enter(row, next, reason));
  row->clock_due = ClockDue(*row);
  v1::JobEvent event;
  event.mutable_state()->set_state(next);
  event.mutable_state()->set_worker(worker);
  event.mutable_state()->set_reason(reason);
  if (!options.faults.skip_state_events) QD_RETURN_IF_ERROR(Append(row, std::move(event)));
  return Save(row);
}

absl::Status QueueOperation::EndAttempt(JobRow* row, v1::Failure failure) {
  const FailureRule rule = RuleOf(failure.error_class());
  row->counted_attempts += rule.counts;
  if (rule.counts) row->released_in_row = 0;
  const RetryDecision decision = DecideRetry(failure.error_class(), row->record.spec().retry(),
                                             row->counted_attempts, Random());
  failure.set_attempt(row->record.attempt());
  if (!decision.final_why.empty()) {
    failure.set_message(absl::StrCat(failure.message(), " (", decision.final_why, ")"));
  }
  *row->record.mutable_failure() = failure;
  v1::JobEvent event;
  *event.mutable_failure() = failure;
  QD_RETURN_IF_ERROR(Append(row, std::move(event)));
  if (decision.again && row->state == v1::JOB_STATE_RUNNING) {
    row->not_before = now + decision.pause;
    ++effects.counters.retries_scheduled;
  }
  return Change(row, decision.again ? JobCommand::kFailAgain : JobCommand::kFail,
                failure.message());
}

absl::Status QueueOperation::Evaluate(JobRow* row) {
  if (row->state != v1::JOB_STATE_PENDING) return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const auto dependencies, txn.Dependencies(row->seq));
  bool waits = false;
  for (const DependencyRow& dependency : dependencies) {
    waits = waits || !IsEnded(dependency.state);
    if (IsEnded(dependency.state) && dependency.state != v1::JOB_STATE_SUCCEEDED &&
        dependency.condition != v1::Dependency::FINISHED) {
      QD_ASSIGN_OR_RETURN(const JobRow on, txn.GetJob(dependency.on));
      return Change(row, JobCommand::kDependencyFailed,
                    absl::StrCat(on.name, " is ", StateWord(on.state)));
    }
  }
  if (waits) return absl::OkStatus();
  return Change(row, JobCommand::kDependenciesMet, "");
}

absl::Status QueueOperation::Settle() {
  while (!ended_.empty() && !options.faults.forget_dependents) {
    const int64_t seq = ended_.front();
    ended_.pop_front();
    QD_ASSIGN_OR_RETURN(const auto dependents, txn.Dependents(seq));
    for (const DependencyRow& dependent : dependents) {
      QD_ASSIGN_OR_RETURN(JobRow row, txn.GetJob(dependent.job));
      QD_RETURN_IF_ERROR(Evaluate(&row));
    }
  }
  for (const int64_t sweep : std::exchange(sweeps_, {})) QD_RETURN_IF_ERROR(SettleSweep(sweep));
  return absl::OkStatus();
}

absl::Status QueueOperation::SettleSweep(int64_t sweep_seq) {
  QD_ASSIGN_OR_RETURN(SweepRow sweep, txn.GetSweep(sweep_seq));
  QD_ASSIGN_OR_RETURN(const int64_t unended, txn.UnendedSweepJobs(sweep_seq));
  v1::JobState state = v1::JOB_STATE_RUNNING;
  if (unended == 0) {
    QD_ASSIGN_OR_RETURN(const auto jobs, txn.SweepJobs(sweep_seq));
    const bool all = std::all_of(jobs.begin(), jobs.end(), [](const JobRow& job) {
      return job.state == v1::JOB_STATE_SUCCEEDED;
    });
    state = all ? v1::JOB_STATE_SUCCEEDED : v1::JOB_STATE_FAILED;
  }
  if (sweep.record.state() == state) return absl::OkStatus();
  sweep.record.set_state(state);
  sweep.record.clear_end_time();
  if (unended == 0) *sweep.record.mutable_end_time() = ToProto(now);
  return txn.UpdateSweep(&sweep);
}

absl::Status QueueOperation::Requeue(JobRow* row, JobCommand command) {
  QD_RETURN_IF_ERROR(CheckQueuedQuota(txn, options.tenants, row->tenant, 1), "retrying ",
                     row->name);
  if (row->state == v1::JOB_STATE_SUCCEEDED && row->record.has_checkpoint()) {
    // Its files may have been removed since.
    QD_RETURN_IF_ERROR(txn.PutCheckpoint(row->seq, v1::Manifest()));
    row->record.clear_has_checkpoint();
  }
  row->counted_attempts = row->released_in_row = 0;
  row->not_before = absl::InfinitePast();
  row->end_time = absl::InfiniteFuture();
  for (const int field :
       {v1::Job::kEndTimeFieldNumber, v1::Job::kFailureFieldNumber, v1::Job::kProgressFieldNumber,
        v1::Job::kCancelRequestedFieldNumber, v1::Job::kWaitingReasonFieldNumber}) {
    row->record.GetReflection()->ClearField(&row->record,
                                            v1::Job::descriptor()->FindFieldByNumber(field));
  }
  QD_RETURN_IF_ERROR(txn.PutOutcome(row->seq, v1::Job()));
  if (row->sweep_seq != 0) sweeps_.insert(row->sweep_seq);
  QD_RETURN_IF_ERROR(Change(row, command, "put back into the queue"));
  return Evaluate(row);
}

v1::Job PresentJob(const JobRow& row) {
  v1::Job job = row.record;
  job.clear_spec();
  job.set_name(row.name);
  job.set_state(row.state);
  job.set_last_sequence(row.last_sequence);
  job.set_etag(absl::StrCat(row.version));
  if (row.state != v1::JOB_STATE_QUEUED) return job;
  if (row.not_before > absl::InfinitePast()) *job.mutable_not_before() = ToProto(row.not_before);
  return job;
}

}  // namespace quantd
