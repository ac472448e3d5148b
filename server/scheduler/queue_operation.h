// One operation of the queue inside one transaction: what all of them share. State changes go
// through Change, which consults the table, sets the times and clocks, writes the event and
// remembers whom to tell; Settle then draws the consequences for dependents and sweeps. Lives as
// long as the transaction.
#pragma once

#include <deque>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/scheduler/queue.h"
#include "server/scheduler/resources.h"
#include "server/scheduler/transitions.h"
#include "server/store/job_store.h"

namespace quantd {

// What becomes true once the transaction is on disk.
struct QueueEffects {
  struct JobChange {
    std::string job;
    std::string sweep;
    int64_t last_sequence = 0;
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  };
  std::vector<JobChange> changes;
  bool runnable = false;
  QueueCounters counters;
};

void AddCounters(const QueueCounters& more, QueueCounters* sum);

class QueueOperation {
 public:
  QueueOperation(Txn* txn, const QueueOptions* options, absl::Time now)
      : txn(*txn), options(*options), now(now) {}

  Txn& txn;
  const QueueOptions& options;
  const absl::Time now;
  QueueEffects effects;

  uint64_t Random() const { return options.random(); }

  // `command` on the job, with a StateChange event if the state changes. The row is saved.
  absl::Status Change(JobRow* row, JobCommand command, const std::string& reason);
  // An event of the scheduler's own (or a worker's, whose fields are kept). The row is not saved.
  absl::Status Append(JobRow* row, v1::JobEvent event);
  // Writes the row and remembers that watchers are to be told.
  absl::Status Save(JobRow* row);
  // Ends the current attempt without success: event, retry policy, state. `failure.attempt` is
  // filled.
  absl::Status EndAttempt(JobRow* row, v1::Failure failure);
  // A PENDING job whose dependencies may have been decided becomes QUEUED or SKIPPED.
  absl::Status Evaluate(JobRow* row);
  // Dependents and sweeps of every job that ended or came back in this transaction. To be called
  // last.
  absl::Status Settle();
  // A job that ended goes back into the queue.
  absl::Status Requeue(JobRow* row, JobCommand command);

 private:
  absl::Status Enter(JobRow* row, v1::JobState state, const std::string& reason);
  absl::Status SettleSweep(int64_t sweep_seq);

  std::deque<int64_t> ended_;  // Their dependents are to be looked at.
  std::set<int64_t> sweeps_;   // Their state is to be looked at.
};

// The earliest of the job's clocks in its present state.
absl::Time ClockDue(const JobRow& row);

// The record as the API shows it, but for what lies elsewhere (spec, result, output, queue
// position, reason).
v1::Job PresentJob(const JobRow& row);
// With everything; `now` for the waiting reason.
absl::StatusOr<v1::Job> PresentWholeJob(ReadTxn& txn, const JobRow& row,
                                        const QueueOptions& options, absl::Time now);
// Without spec; with the stages' states. `jobs` are the sweep's.
v1::Sweep PresentSweep(const SweepRow& row, const std::vector<JobRow>& jobs);
absl::StatusOr<v1::Sweep> PresentWholeSweep(ReadTxn& txn, const SweepRow& row);
// Alive: heard of within a lease's time.
bool IsAlive(const WorkerRow& worker, absl::Duration lease_time, absl::Time now);

// The bodies of the operations, each of which runs in a transaction of its own.
struct TickRequest {
  absl::Time last_tick;
};
struct TickResponse {};
struct RenewRequest {};
struct RenewResponse {};
namespace bodies {
absl::StatusOr<v1::SubmitJobResponse> SubmitJob(QueueOperation& op,
                                                const Submission<v1::SubmitJobRequest>&);
absl::StatusOr<v1::Job> CancelJob(QueueOperation& op, const v1::CancelJobRequest&);
absl::StatusOr<v1::Job> RetryJob(QueueOperation& op, const v1::RetryJobRequest&);
absl::StatusOr<v1::SubmitSweepResponse> SubmitSweep(QueueOperation& op,
                                                    const Submission<v1::SubmitSweepRequest>&);
absl::StatusOr<v1::Sweep> CancelSweep(QueueOperation& op, const v1::CancelSweepRequest&);
absl::StatusOr<v1::Sweep> RetrySweep(QueueOperation& op, const v1::RetrySweepRequest&);
absl::StatusOr<v1::RegisterWorkerResponse> RegisterWorker(QueueOperation& op,
                                                          const v1::RegisterWorkerRequest&);
absl::StatusOr<v1::DeregisterWorkerResponse> DeregisterWorker(QueueOperation& op,
                                                              const v1::DeregisterWorkerRequest&);
absl::StatusOr<v1::LeaseJobResponse> LeaseJob(QueueOperation& op, const v1::LeaseJobRequest&);
absl::StatusOr<v1::ReportJobResponse> ReportJob(QueueOperation& op, const v1::ReportJobRequest&);
absl::StatusOr<v1::CompleteJobResponse> CompleteJob(QueueOperation& op,
                                                    const v1::CompleteJobRequest&);
absl::StatusOr<v1::ReleaseJobResponse> ReleaseJob(QueueOperation& op, const v1::ReleaseJobRequest&);
absl::StatusOr<TickResponse> Tick(QueueOperation& op, const TickRequest&);
absl::StatusOr<RenewResponse> Renew(QueueOperation& op, const RenewRequest&);
}  // namespace bodies

// The fence, as facts: why a write with a lease is refused. The exhaustive model (model_test.cc)
// asks the same function.
enum class LeaseEnd { kNone, kNotLeased, kReplaced, kOverdue };
// `newest`: the job was given to nobody since.
LeaseEnd WhyLeaseIsOver(const QueueFaults& faults, v1::JobState state, bool newest, bool overdue);

// Parts of bodies that several share.
// The job of a lease that is current, or LEASE_LOST.
absl::StatusOr<JobRow> CurrentLease(ReadTxn& txn, const QueueOptions& options,
                                    const v1::Lease& lease, absl::Time now);
// Gives the job back undone; the attempt does not count.
absl::Status GiveBack(QueueOperation& op, JobRow* row, const std::string& reason);
// Inserts a job with its first event(s), dependencies included; those of `spec` have to exist.
absl::StatusOr<JobRow> InsertJob(QueueOperation& op, const std::string& tenant,
                                 const std::string& name, v1::JobSpec spec, const SweepRow* sweep);
// Keeps in mind that this output of the job has no manifest in the artifact store yet
// (Queue::UnnamedOutputs).
absl::Status OweName(QueueOperation& op, const JobRow& row, const v1::Manifest& output);
// What a request id was used for: RequestDigest of what was sent, and of what was stored for it.
struct SubmissionDigests {
  std::string sent;
  std::string resolved;
};
template <typename Request>
SubmissionDigests DigestsOf(const Submission<Request>& submission) {
  SubmissionDigests digests = {.sent = submission.sent_digest,
                               .resolved = RequestDigest(submission.request)};
  if (digests.sent.empty()) digests.sent = digests.resolved;
  return digests;
}
// The earlier answer's resource if the request id was used with this request; empty if it is new.
absl::StatusOr<std::string> FindReplay(QueueOperation& op, const std::string& tenant,
                                       const std::string& request_id,
                                       const SubmissionDigests& digests);
absl::Status RememberRequest(QueueOperation& op, const std::string& tenant,
                             const std::string& request_id, const SubmissionDigests& digests,
                             const std::string& resource);

}  // namespace quantd
