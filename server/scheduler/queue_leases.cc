// What workers do to jobs: take, report, complete, give back. Every write names its lease;
// CurrentLease is the fence.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "server/scheduler/errors.h"
#include "server/scheduler/fairness.h"
#include "server/scheduler/matching.h"
#include "server/scheduler/queue_operation.h"
#include "server/scheduler/references.h"
#include "server/scheduler/resources.h"

namespace quantd {
namespace {

// A job's outcome_digest after a release: the attempt ended, but with no outcome.
constexpr char kReleased[] = "released";
// Polls and reports come every few seconds: being seen is written at most so often a lease time.
constexpr int kTouchesPerLease = 6;

absl::Status LeaseLost(const v1::Lease& lease, absl::string_view why) {
  return WithReason(absl::AbortedError(absl::StrCat("the lease of ", lease.job(), " with token ",
                                                    lease.fencing_token(), " is over: ", why,
                                                    "; stop working for it")),
                    kReasonLeaseLost);
}

absl::Status TouchWorker(QueueOperation& op, WorkerRow* worker) {
  const absl::Duration pause = op.options.lease_time / kTouchesPerLease;
  if (worker->last_seen > op.now - pause) return absl::OkStatus();
  worker->last_seen = op.now;
  return op.txn.TouchWorker(*worker);
}

// A job that logs without end must not fill the database: of later events only those are kept that
// say what became of it.
constexpr int64_t kKeptEventsMax = 200'000;

bool MustBeKept(const v1::JobEvent& event) {
  return !event.has_log() && !event.has_progress() && !event.has_metric();
}

// Takes every event number once. Sets `progressed` if the job moved.
absl::Status AcceptEvents(QueueOperation& op, JobRow* row, int64_t first_event,
                          const google::protobuf::RepeatedPtrField<v1::JobEvent>& events,
                          bool* progressed) {
  if (events.empty()) return absl::OkStatus();
  if (first_event < 1) return FieldError("first_event", "counts from 1");
  if (first_event > row->attempt_events + 1) {
    return WithReason(absl::OutOfRangeError(absl::StrCat(
                          "event ", first_event, " of ", row->name, " leaves a gap: events up to ",
                          row->attempt_events, " are here; send from there")),
                      kReasonEventGap, {{"accepted_events", absl::StrCat(row->attempt_events)}});
  }
  for (int i = 0; i < events.size(); ++i) {
    const v1::JobEvent& event = events[i];
    if (first_event + i <= row->attempt_events && !op.options.faults.skip_event_dedup) continue;
    switch (event.event_case()) {
      case v1::JobEvent::kState:
      case v1::JobEvent::kKeepAlive:
      case v1::JobEvent::EVENT_NOT_SET:
        return FieldError(absl::StrCat("events[", i, "]"),
                          "is of a kind that only the scheduler writes, or of none that it knows");
      case v1::JobEvent::kProgress:
        *progressed = *progressed || event.progress().phase() != row->record.progress().phase() ||
                      event.progress().done() != row->record.progress().done();
        *row->record.mutable_progress() = event.progress();
        break;
      case v1::JobEvent::kCheckpoint:
        *progressed = true;
        if (event.checkpoint().blocks_done() > row->blocks_done) {
          // What failed before is behind it: machines may vanish as often as blocks are won.
          row->blocks_done = event.checkpoint().blocks_done();
          row->counted_attempts = 0;
        }
        if (event.checkpoint().has_manifest()) {
          QD_RETURN_IF_ERROR(KeepReachable(op.txn, BlobKeys(event.checkpoint().manifest())));
          row->record.set_has_checkpoint(true);
          QD_RETURN_IF_ERROR(op.txn.PutCheckpoint(row->seq, event.checkpoint().manifest()));
        }
        break;
      case v1::JobEvent::kResult: {
        *progressed = true;
        v1::Job outcome;
        *outcome.mutable_result() = event.result().values();
        QD_RETURN_IF_ERROR(op.txn.PutOutcome(row->seq, outcome));
        break;
      }
      case v1::JobEvent::kLog:
        break;  // A hung engine may still log.
      case v1::JobEvent::kArtifact:
        QD_RETURN_IF_ERROR(
            KeepReachable(op.txn, {BlobKey(event.artifact().file().blob().sha256())}));
        *progressed = true;
        break;
      case v1::JobEvent::kMetric:
      case v1::JobEvent::kFallback:
      case v1::JobEvent::kFailure:
        *progressed = true;
        break;
    }
    if (row->last_sequence < kKeptEventsMax || MustBeKept(event)) {
      QD_RETURN_IF_ERROR(op.Append(row, event));
    }
  }
  row->attempt_events = std::max<int64_t>(row->attempt_events, first_event + events.size() - 1);
  return absl::OkStatus();
}

absl::Status AddInputs(QueueOperation& op, const JobRow& row, v1::LeaseJobResponse* response) {
  for (const SpecReference& reference : ReferencesOf(response->spec())) {
    v1::LeaseJobResponse::Input& input = *response->add_inputs();
    input.set_reference(reference.reference);
    if (IsArtifactReference(reference.reference)) {
      if (!op.options.find_manifest) continue;
      auto manifest = op.options.find_manifest(
          row.tenant, reference.reference.substr(sizeof("artifacts/") - 1));
      if (absl::IsUnavailable(manifest.status())) return manifest.status();
      if (manifest.ok()) *input.mutable_manifest() = *std::move(manifest);
      continue;
    }
    auto job = op.txn.GetJob(ResolveJob(row.tenant, reference.reference));
    if (absl::IsNotFound(job.status()))
      continue;  // Removed by retention: the worker reports BAD_INPUT.
    QD_RETURN_IF_ERROR(job.status());
    QD_ASSIGN_OR_RETURN(v1::Job outcome, op.txn.GetOutcome(job->seq));
    QD_ASSIGN_OR_RETURN(*input.mutable_spec(), op.txn.GetSpec(job->seq));
    input.mutable_manifest()->Swap(outcome.mutable_output());
    input.mutable_result()->Swap(outcome.mutable_result());
    input.set_state(job->state);
    if (job->record.has_failure()) *input.mutable_failure() = job->record.failure();
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::LeaseJobResponse> LeaseAnswer(QueueOperation& op, const JobRow& row) {
  v1::LeaseJobResponse response;
  v1::Lease& lease = *response.mutable_lease();
  lease.set_job(row.name);
  lease.set_worker(row.lease_worker);
  lease.set_attempt(row.record.attempt());
  lease.set_fencing_token(row.fencing_token);
  *lease.mutable_lease_time() = ToProto(op.options.lease_time);
  QD_ASSIGN_OR_RETURN(*response.mutable_spec(), op.txn.GetSpec(row.seq));
  QD_ASSIGN_OR_RETURN(*response.mutable_checkpoint(), op.txn.GetCheckpoint(row.seq));
  const v1::Limits& limits = response.spec().limits();
  if (limits.has_run_time()) {
    *response.mutable_run_time_left() = ToProto(
        std::max(absl::ZeroDuration(), row.run_time + FromProto(limits.run_time()) - op.now));
  }
  QD_RETURN_IF_ERROR(AddInputs(op, row, &response));
  return response;
}

// The first job in the queue that this worker can do.
absl::StatusOr<std::optional<int64_t>> Choose(QueueOperation& op, const WorkerRow& worker) {
  QD_ASSIGN_OR_RETURN(const auto queued, op.txn.QueuedNeeds());
  std::vector<int64_t> met;
  for (const auto& [id, key] : queued) {
    v1::JobSpec needs;
    if (needs.ParseFromString(key) && NeedsUnmetBy(needs, worker.record).empty()) met.push_back(id);
  }
  if (met.empty()) return std::nullopt;
  QD_ASSIGN_OR_RETURN(const auto loads, op.txn.SweepLoads());
  std::vector<int64_t> full;
  for (const SweepLoad& load : loads) {
    if (load.running >= load.max_parallel) full.push_back(load.sweep_seq);
  }
  QD_ASSIGN_OR_RETURN(auto heads, op.txn.RunnableHeads(met, full, op.now));
  QD_ASSIGN_OR_RETURN(const auto tenants, TenantLoads::Read(op.txn, op.options.tenants, op.now));
  const bool gpu = HasGpu(worker.record);
  heads.erase(std::remove_if(heads.begin(), heads.end(),
                             [&](const RunnableHead& head) {
                               return !tenants.Blocked(head.tenant, gpu).empty();
                             }),
              heads.end());
  QD_ASSIGN_OR_RETURN(Shares shares, Shares::Read(op.txn, op.options.tenants));
  const RunnableHead* next = NextOf(heads, shares, op.options.aging, op.now);
  if (next == nullptr) return std::nullopt;
  QD_RETURN_IF_ERROR(shares.Charge(op.txn, next->tenant));
  return next->seq;
}

absl::StatusOr<v1::LeaseJobResponse> Grant(QueueOperation& op, int64_t seq, WorkerRow* worker,
                                           const std::string& request_id) {
  QD_ASSIGN_OR_RETURN(JobRow row, op.txn.GetJob(seq));
  QD_ASSIGN_OR_RETURN(const int64_t token, op.txn.NextFencingToken());
  const bool reuse = op.options.faults.reuse_fencing_token && row.fencing_token != 0;
  if (!reuse) row.fencing_token = token;
  row.lease_worker = worker->name;
  row.lease_expires = op.now + op.options.lease_time;
  row.lease_reported = false;
  row.attempt_events = 0;
  row.gpus = HasGpu(worker->record) ? 1 : 0;
  row.record.set_attempt(row.record.attempt() + 1);
  row.record.set_worker(worker->name);
  row.record.clear_progress();
  row.record.clear_waiting_reason();
  QD_RETURN_IF_ERROR(op.Change(&row, JobCommand::kLease, ""));
  worker->last_seen = op.now;
  worker->request_id = request_id;
  worker->request_job = row.name;
  worker->request_token = row.fencing_token;
  QD_RETURN_IF_ERROR(op.txn.TouchWorker(*worker));
  ++op.effects.counters.leases_granted;
  FaultPoint("queue/lease/granted");
  return LeaseAnswer(op, row);
}

std::string OutcomeDigest(const v1::CompleteJobRequest& request) {
  v1::CompleteJobRequest outcome = request;
  outcome.clear_lease();
  outcome.clear_first_event();
  outcome.clear_events();
  return MessageDigest(outcome);
}

absl::Status CheckDigest(const std::string& digest) {
  if (IsSha256Hex(digest)) return absl::OkStatus();
  return FieldError("input_digest", "must be 64 lower-case hex digits");
}

absl::Status ApplyOutcome(QueueOperation& op, JobRow* row, const v1::CompleteJobRequest& request) {
  switch (request.outcome_case()) {
    case v1::CompleteJobRequest::kSuccess: {
      QD_ASSIGN_OR_RETURN(v1::Job outcome, op.txn.GetOutcome(row->seq));
      if (request.success().result().fields_size() > 0) {
        *outcome.mutable_result() = request.success().result();
      }
      *outcome.mutable_output() = request.success().output();
      std::vector<std::string> keys = BlobKeys(outcome.output());
      keys.push_back(ArtifactKey(row->tenant, outcome.output().sha256()));
      QD_RETURN_IF_ERROR(KeepReachable(op.txn, keys));
      if (!outcome.output().files().empty()) {
        QD_RETURN_IF_ERROR(op.txn.PutArtifactBytes(row->tenant, outcome.output().sha256(),
                                                   outcome.output().total_bytes()));
        QD_RETURN_IF_ERROR(OweName(op, *row, outcome.output()));
      }
      if (const std::string& inputs = request.success().input_digest(); !inputs.empty()) {
        QD_RETURN_IF_ERROR(CheckDigest(inputs));
        QD_RETURN_IF_ERROR(op.txn.PutResult(row->tenant, inputs, row->seq));
      }
      QD_RETURN_IF_ERROR(op.txn.PutOutcome(row->seq, outcome));
      row->released_in_row = 0;
      return op.Change(row, JobCommand::kSucceed, "");
    }
    case v1::CompleteJobRequest::kFailure:
      return op.EndAttempt(row, request.failure());
    case v1::CompleteJobRequest::kCancelled:
      return op.Change(row, JobCommand::kWorkerCancelled, row->record.waiting_reason());
    case v1::CompleteJobRequest::OUTCOME_NOT_SET:
      break;
  }
  return FieldError("outcome", "is none of success, failure, cancelled");
}

}  // namespace

LeaseEnd WhyLeaseIsOver(const QueueFaults& faults, v1::JobState state, bool newest, bool overdue) {
  if (!IsLeased(state)) return LeaseEnd::kNotLeased;
  if (faults.ignore_fence) return LeaseEnd::kNone;
  if (!newest) return LeaseEnd::kReplaced;
  if (overdue && !faults.renew_after_expiry) return LeaseEnd::kOverdue;
  return LeaseEnd::kNone;
}

absl::StatusOr<JobRow> CurrentLease(ReadTxn& txn, const QueueOptions& options,
                                    const v1::Lease& lease, absl::Time now) {
  auto row = txn.GetJob(lease.job());
  if (absl::IsNotFound(row.status())) return LeaseLost(lease, "the job does not exist");
  QD_RETURN_IF_ERROR(row.status());
  const bool newest =
      row->fencing_token == lease.fencing_token() && row->lease_worker == lease.worker();
  const bool overdue = row->lease_expires <= options.lease_clock(now);
  switch (WhyLeaseIsOver(options.faults, row->state, newest, overdue)) {
    case LeaseEnd::kNone:
      return row;
    case LeaseEnd::kNotLeased:
      return LeaseLost(lease, absl::StrCat("the job is ", StateWord(row->state)));
    case LeaseEnd::kReplaced:
      return LeaseLost(lease, absl::StrCat("token ", row->fencing_token, " was given out since"));
    case LeaseEnd::kOverdue:
      return LeaseLost(lease, "it was not renewed in time");
  }
  return row;
}

absl::Status GiveBack(QueueOperation& op, JobRow* row, const std::string& reason) {
  ++row->released_in_row;
  row->outcome_token = row->fencing_token;
  row->outcome_digest = kReleased;
  if (row->state == v1::JOB_STATE_RUNNING && row->released_in_row > 1) {
    // A worker that takes and returns a job again and again must not keep it spinning.
    row->not_before =
        op.now + Backoff(row->record.spec().retry(), row->released_in_row - 1, op.Random());
  }
  ++op.effects.counters.releases;
  return op.Change(row, JobCommand::kRelease, absl::StrCat("given back: ", reason));
}

absl::StatusOr<v1::FindResultResponse> Queue::FindResult(const v1::FindResultRequest& request,
                                                         absl::Time now) {
  QD_RETURN_IF_ERROR(CheckDigest(request.input_digest()));
  v1::FindResultResponse response;
  QD_RETURN_IF_ERROR(store_->Read([&](ReadTxn& txn) -> absl::Status {
    QD_ASSIGN_OR_RETURN(const JobRow lease, CurrentLease(txn, options_, request.lease(), now));
    QD_ASSIGN_OR_RETURN(const auto job, txn.FindResult(lease.tenant, request.input_digest()));
    if (!job.has_value()) return absl::NotFoundError("no job that is still there had these inputs");
    QD_ASSIGN_OR_RETURN(const JobRow row, txn.GetJob(*job));
    if (row.state != v1::JOB_STATE_SUCCEEDED) return absl::NotFoundError("the job did not succeed");
    QD_ASSIGN_OR_RETURN(v1::Job outcome, txn.GetOutcome(row.seq));
    response.set_job(row.name);
    *response.mutable_success()->mutable_result() = outcome.result();
    if (!outcome.output().files().empty()) {
      *response.mutable_success()->mutable_output() = outcome.output();
    }
    response.mutable_success()->set_input_digest(request.input_digest());
    return absl::OkStatus();
  }));
  return response;
}

namespace bodies {

absl::StatusOr<v1::LeaseJobResponse> LeaseJob(QueueOperation& op,
                                              const v1::LeaseJobRequest& request) {
  QD_ASSIGN_OR_RETURN(auto worker, op.txn.GetWorker(request.worker()));
  if (!worker.has_value()) {
    return WithReason(absl::NotFoundError(absl::StrCat("the scheduler does not know worker \"",
                                                       request.worker(), "\"; register it again")),
                      kReasonWorkerUnknown);
  }
  if (worker->instance_id != request.instance_id()) {
    return WithReason(
        absl::AbortedError(absl::StrCat("another process took over the name ", request.worker(),
                                        "; give every worker a name of its own")),
        kReasonInstanceReplaced);
  }
  QD_ASSIGN_OR_RETURN(const auto leases, op.txn.WorkerLeases(worker->name));
  worker->disk_free_bytes = request.disk_free_bytes();
  if (!leases.empty()) {
    QD_RETURN_IF_ERROR(TouchWorker(op, &*worker));
    const JobRow& row = leases.front();
    const bool repeated =
        !request.request_id().empty() && request.request_id() == worker->request_id;
    if (row.lease_expires <= op.now || (!repeated && row.lease_reported)) {
      return v1::LeaseJobResponse();
    }
    return LeaseAnswer(op, row);
  }
  const bool answered = !request.request_id().empty() && request.request_id() == worker->request_id;
  std::optional<int64_t> seq;
  if (!answered) {
    QD_ASSIGN_OR_RETURN(seq, Choose(op, *worker));
  }
  if (seq.has_value()) return Grant(op, *seq, &*worker, request.request_id());
  QD_RETURN_IF_ERROR(TouchWorker(op, &*worker));
  return v1::LeaseJobResponse();
}

absl::StatusOr<v1::ReportJobResponse> ReportJob(QueueOperation& op,
                                                const v1::ReportJobRequest& request) {
  auto lease = CurrentLease(op.txn, op.options, request.lease(), op.now);
  if (!lease.ok()) {
    if (ReasonOf(lease.status()) == kReasonLeaseLost) ++op.effects.counters.fenced_writes;
    return lease.status();
  }
  JobRow row = *std::move(lease);
  bool progressed = false;
  QD_RETURN_IF_ERROR(AcceptEvents(op, &row, request.first_event(), request.events(), &progressed));
  if (progressed) {
    row.progress_time = op.now;
    row.clock_due = ClockDue(row);
  }
  row.lease_expires = op.now + op.options.lease_time;
  row.lease_reported = true;
  if (request.events().empty()) {
    QD_RETURN_IF_ERROR(op.txn.UpdateJob(&row));  // Nothing that a watcher could see.
  } else {
    QD_RETURN_IF_ERROR(op.Save(&row));
  }
  QD_ASSIGN_OR_RETURN(auto worker, op.txn.GetWorker(row.lease_worker));
  if (worker.has_value()) QD_RETURN_IF_ERROR(TouchWorker(op, &*worker));
  v1::ReportJobResponse response;
  response.set_accepted_events(row.attempt_events);
  response.set_cancel_requested(row.state == v1::JOB_STATE_CANCELLING);
  if (response.cancel_requested()) response.set_cancel_reason(row.record.waiting_reason());
  return response;
}

absl::StatusOr<v1::CompleteJobResponse> CompleteJob(QueueOperation& op,
                                                    const v1::CompleteJobRequest& request) {
  const std::string digest = OutcomeDigest(request);
  const auto known = op.txn.GetJob(request.lease().job());
  v1::CompleteJobResponse response;
  if (known.ok() && known->outcome_token != 0 &&
      known->outcome_token == request.lease().fencing_token() &&
      !op.options.faults.complete_twice) {
    if (known->outcome_digest == digest) {
      ++op.effects.counters.repeated_completions;
      response.set_state(known->outcome_state);
      return response;
    }
    ++op.effects.counters.fenced_writes;
    op.effects.counters.duplicate_completions += known->outcome_digest != kReleased;
    return LeaseLost(request.lease(), "another outcome of this attempt was accepted");
  }
  auto lease = CurrentLease(op.txn, op.options, request.lease(), op.now);
  if (!lease.ok()) {
    if (ReasonOf(lease.status()) == kReasonLeaseLost) ++op.effects.counters.fenced_writes;
    return lease.status();
  }
  JobRow row = *std::move(lease);
  bool progressed = false;
  QD_RETURN_IF_ERROR(AcceptEvents(op, &row, request.first_event(), request.events(), &progressed));
  row.outcome_token = row.fencing_token;
  row.outcome_digest = digest;
  QD_RETURN_IF_ERROR(ApplyOutcome(op, &row, request));
  row.outcome_state = row.state;
  QD_RETURN_IF_ERROR(op.txn.UpdateJob(&row));
  response.set_state(row.state);
  return response;
}

absl::StatusOr<v1::ReleaseJobResponse> ReleaseJob(QueueOperation& op,
                                                  const v1::ReleaseJobRequest& request) {
  const auto known = op.txn.GetJob(request.lease().job());
  if (known.ok() && known->outcome_token != 0 && known->outcome_digest == kReleased &&
      known->outcome_token == request.lease().fencing_token()) {
    return v1::ReleaseJobResponse();
  }
  auto lease = CurrentLease(op.txn, op.options, request.lease(), op.now);
  if (!lease.ok()) {
    if (ReasonOf(lease.status()) == kReasonLeaseLost) ++op.effects.counters.fenced_writes;
    return lease.status();
  }
  JobRow row = *std::move(lease);
  QD_RETURN_IF_ERROR(GiveBack(op, &row, request.reason()));
  return v1::ReleaseJobResponse();
}

}  // namespace bodies
}  // namespace quantd
