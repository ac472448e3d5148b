// The durable queue: every operation of the API on jobs, sweeps and workers, over a JobStore. It
// has no gRPC and no threads, and time is passed in, so that a test can simulate years of lost,
// doubled and late messages in a second. Transitions and the retry policy are in transitions.h, the
// planning of sweeps in sweep_planner.h.
//
// Time: `now` has to come from a clock that does not jump (wall time at start plus monotonic time
// since); the queue compares it with times it stored. Calls may pass slightly older times than
// earlier ones did.
//
// Writes come in two forms. With a `done`: returns at once; `done` runs on the store's writer
// thread after the transaction is on disk (so it must be short and must not call a blocking form).
// Without: waits. Reads run on the calling thread over a snapshot, concurrently with everything
// else. All methods are thread-safe.
//
// Errors carry details as described in errors.h. InvalidArgument: a field violation; NotFound: no
// such resource in this tenant; AlreadyExists: a request id used with another body;
// FailedPrecondition: the state forbids it; ResourceExhausted + QUOTA_EXCEEDED: the tenant has
// enough (tenants.h); Aborted + LEASE_LOST / INSTANCE_REPLACED, OutOfRange +
// EVENT_GAP, NotFound + WORKER_UNKNOWN for workers; ResourceExhausted / Unavailable: from the
// store, try again later.
//
// Checked here: what the queue itself relies on (names, references, priorities, numbers, limits'
// signs). Not here: a method's options and a task's names against the workers' catalog, which is
// the services' part and is done before SubmitJob with GetCatalog.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/artifact.pb.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/sweep.pb.h"
#include "proto/quantd/v1/worker.pb.h"
#include "server/scheduler/tenants.h"
#include "server/store/job_store.h"

namespace quantd {

// Told after a transaction is on disk: of this scheduler's on the store's writer thread, before the
// operation's own `done`; of another's over the same store on a thread of the store's. Must be
// short, must not call the queue's writes in their blocking form.
class QueueObserver {
 public:
  virtual ~QueueObserver() = default;
  // The job has new events (the last one is `last_sequence`) or another state. `sweep` may be
  // empty.
  virtual void JobChanged(const std::string& job, const std::string& sweep, int64_t last_sequence,
                          v1::JobState state) {}
  // There may be something to lease that was not there before: wake the long polls.
  virtual void JobsRunnable() {}
  // News of other schedulers over the same store may have been missed: look at everything again.
  virtual void AnythingChanged() {}
};

// What deliberately broken variants switch off, so that the simulation can prove that it would
// notice. Production leaves it alone.
struct QueueFaults {
  bool ignore_fence = false;         // accept writes with an old token
  bool renew_after_expiry = false;   // let an expired lease be renewed
  bool never_reclaim = false;        // the reclaim loop does nothing
  bool complete_twice = false;       // accept a second outcome
  bool skip_event_dedup = false;     // take repeated events again
  bool forget_dependents = false;    // do not look at dependents when a job ends
  bool reuse_fencing_token = false;  // give the job's old token to the next lease
  bool skip_state_events = false;    // change a job's state without an event that says so
};

struct QueueOptions {
  absl::Duration lease_time = absl::Seconds(30);
  // A job that was asked to stop and does not is ended after this, and its lease revoked.
  absl::Duration cancel_grace = absl::Seconds(60);
  absl::Duration request_id_time = absl::Hours(7 * 24);
  // A worker not heard of for so long disappears from ListWorkers.
  absl::Duration lost_worker_time = absl::Hours(1);
  // Ended jobs are removed after this; InfiniteDuration keeps them.
  absl::Duration retention = absl::InfiniteDuration();
  // Weights and limits of tenants.
  TenantPolicies tenants;
  // A job that has waited for so long counts as one priority higher; infinite: never.
  absl::Duration aging = absl::Hours(1);
  // What a call's time is for leases: it may stand still while nobody can report. Null: that time.
  std::function<absl::Time(absl::Time)> lease_clock;
  // 64 random bits, for names and jitter. Thread-safe. Null: a secure generator.
  std::function<uint64_t()> random;
  // The manifest "artifacts/{sha256}" stands for, for LeaseJobResponse.inputs. Called inside a
  // transaction: must not block long nor call the queue. Unavailable: nothing is leased now. Null
  // or another error: the input goes out without files, and the worker reports BAD_INPUT.
  std::function<absl::StatusOr<v1::Manifest>(const std::string& tenant, const std::string& sha256)>
      find_manifest;
  QueueObserver* observer = nullptr;  // Not owned; outlives the queue.
  QueueFaults faults;
};

// By kind ("quantize") and state.
using JobCounts = std::map<std::pair<std::string, v1::JobState>, int64_t>;

// Cumulative since the queue was made.
struct QueueCounters {
  std::map<std::string, int64_t> jobs_submitted;  // By kind.
  JobCounts jobs_ended;                           // By final state.
  int64_t leases_granted = 0;
  int64_t lease_expirations = 0;
  int64_t fenced_writes = 0;          // Worker calls refused with LEASE_LOST.
  int64_t idempotent_replays = 0;     // Submits answered from the request-id table.
  int64_t repeated_completions = 0;   // The same outcome again, answered as before.
  int64_t duplicate_completions = 0;  // Another outcome for an ended attempt: refused.
  int64_t retries_scheduled = 0;
  int64_t releases = 0;
  int64_t clock_timeouts = 0;
  int64_t jobs_removed = 0;                       // By retention.
  std::map<std::string, int64_t> quota_refusals;  // By limit, "queued-max".
};

// For metrics: what stands in the store now.
struct QueueStatistics {
  JobCounts jobs;
  // Of all kinds.
  int64_t JobsIn(v1::JobState state) const {
    int64_t sum = 0;
    for (const auto& [key, count] : jobs) sum += key.second == state ? count : 0;
    return sum;
  }
  int64_t workers_idle = 0;
  int64_t workers_busy = 0;
  int64_t workers_draining = 0;
  int64_t workers_lost = 0;
};

struct EventPage {
  std::vector<v1::JobEvent> events;
  // Pass as `after_sequence` for the next page, whether or not events were filtered out.
  int64_t next_sequence = 0;
  // No events after these exist now.
  bool at_end = true;
  // The job has ended and every event was read: a watch may end.
  bool finished = false;
};

struct SweepEventPage {
  std::vector<v1::SweepEvent> events;  // With resume_token each; JobEvent.job is set.
  std::string next_token;
  bool at_end = true;
  bool finished = false;
};

// A submit as it is to be stored, with what it was before the services filled in what was left out:
// the same request may be resolved differently when it is repeated (a worker has come or gone
// since), and is the same all the same.
template <typename Request>
struct Submission {
  Submission() = default;
  Submission(Request same) : request(std::move(same)) {}  // NOLINT: stored as it was sent.
  Request request;
  std::string sent_digest = {};  // RequestDigest of what was sent; empty: of `request`.
  absl::Status refusal = {};     // Why it cannot be stored now, should it be a new one.
};

struct QueueEffects;
class QueueOperation;

class Queue {
 public:
  template <typename T>
  using Done = std::function<void(absl::StatusOr<T>)>;

  // `store` is not owned and outlives the queue. Gives every live lease one full lease time
  // (restart amnesty): workers that went on while the scheduler was away keep their jobs.
  static absl::StatusOr<std::unique_ptr<Queue>> Open(JobStore* store, QueueOptions options,
                                                     absl::Time now);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Clients. `validate_only` is honoured (nothing is written). An empty parent stands for
  // "tenants/default". References "jobs/{job}" in a spec become dependencies: a model's on
  // SUCCEEDED, a comparison's on FINISHED.
  void SubmitJob(Submission<v1::SubmitJobRequest> submission, absl::Time now,
                 Done<v1::SubmitJobResponse> done);
  absl::StatusOr<v1::SubmitJobResponse> SubmitJob(Submission<v1::SubmitJobRequest> submission,
                                                  absl::Time now);
  // A cancelled job that runs becomes CANCELLING until its worker answers; all others end at once.
  void CancelJob(v1::CancelJobRequest request, absl::Time now, Done<v1::Job> done);
  absl::StatusOr<v1::Job> CancelJob(v1::CancelJobRequest request, absl::Time now);
  // A job that has not ended is returned as it is. FailedPrecondition: it succeeded, or a
  // dependency did not.
  void RetryJob(v1::RetryJobRequest request, absl::Time now, Done<v1::Job> done);
  absl::StatusOr<v1::Job> RetryJob(v1::RetryJobRequest request, absl::Time now);
  absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request, absl::Time now);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request, absl::Time now);
  // Stored events after request.after_sequence, at most `limit` and about 256 KiB. To watch: read
  // until at_end, wait for JobChanged, read on; register for JobChanged before the first read.
  // `snapshot` is not looked at.
  absl::StatusOr<EventPage> ReadEvents(const v1::WatchJobRequest& request, int64_t limit = 1000);

  void SubmitSweep(Submission<v1::SubmitSweepRequest> submission, absl::Time now,
                   Done<v1::SubmitSweepResponse> done);
  absl::StatusOr<v1::SubmitSweepResponse> SubmitSweep(Submission<v1::SubmitSweepRequest> submission,
                                                      absl::Time now);
  void CancelSweep(v1::CancelSweepRequest request, absl::Time now, Done<v1::Sweep> done);
  absl::StatusOr<v1::Sweep> CancelSweep(v1::CancelSweepRequest request, absl::Time now);
  void RetrySweep(v1::RetrySweepRequest request, absl::Time now, Done<v1::Sweep> done);
  absl::StatusOr<v1::Sweep> RetrySweep(v1::RetrySweepRequest request, absl::Time now);
  absl::StatusOr<v1::Sweep> GetSweep(const v1::GetSweepRequest& request);
  absl::StatusOr<v1::ListSweepsResponse> ListSweeps(const v1::ListSweepsRequest& request);
  absl::StatusOr<SweepEventPage> ReadSweepEvents(const v1::WatchSweepRequest& request,
                                                 int64_t limit = 1000);

  // Workers.
  void RegisterWorker(v1::RegisterWorkerRequest request, absl::Time now,
                      Done<v1::RegisterWorkerResponse> done);
  absl::StatusOr<v1::RegisterWorkerResponse> RegisterWorker(v1::RegisterWorkerRequest request,
                                                            absl::Time now);
  // Does not wait: an empty response when there is nothing to do now; the service polls again on
  // JobsRunnable until the request's `wait` is over. A worker holds at most one lease: a poll while
  // it holds one that it has not reported on yet (the answer was lost) gets that lease again,
  // whatever its request id; a repeated poll whose lease is over gets nothing.
  void LeaseJob(v1::LeaseJobRequest request, absl::Time now, Done<v1::LeaseJobResponse> done);
  absl::StatusOr<v1::LeaseJobResponse> LeaseJob(v1::LeaseJobRequest request, absl::Time now);
  // Events of kinds state and keep_alive are the scheduler's own and are refused.
  void ReportJob(v1::ReportJobRequest request, absl::Time now, Done<v1::ReportJobResponse> done);
  absl::StatusOr<v1::ReportJobResponse> ReportJob(v1::ReportJobRequest request, absl::Time now);
  // Whether the output's blobs exist is to be checked by the service before this.
  void CompleteJob(v1::CompleteJobRequest request, absl::Time now,
                   Done<v1::CompleteJobResponse> done);
  absl::StatusOr<v1::CompleteJobResponse> CompleteJob(v1::CompleteJobRequest request,
                                                      absl::Time now);
  // What an earlier job of the lease's tenant made of the same inputs. NotFound: no job that is
  // still there did.
  absl::StatusOr<v1::FindResultResponse> FindResult(const v1::FindResultRequest& request,
                                                    absl::Time now);
  // Outputs of accepted outcomes of which nobody has said OutputNamed yet, as artifacts: to be put
  // into the artifact store, where they may be already. One without files leads nowhere any more,
  // and needs OutputNamed only.
  absl::StatusOr<std::vector<v1::Artifact>> UnnamedOutputs();
  // The artifact of that name is in the artifact store, and stays. Does not wait.
  void OutputNamed(const std::string& artifact);
  void ReleaseJob(v1::ReleaseJobRequest request, absl::Time now, Done<v1::ReleaseJobResponse> done);
  absl::StatusOr<v1::ReleaseJobResponse> ReleaseJob(v1::ReleaseJobRequest request, absl::Time now);
  void DeregisterWorker(v1::DeregisterWorkerRequest request, absl::Time now,
                        Done<v1::DeregisterWorkerResponse> done);
  absl::StatusOr<v1::DeregisterWorkerResponse> DeregisterWorker(v1::DeregisterWorkerRequest request,
                                                                absl::Time now);
  // Takes an artifact that a client puts together into the tenant's books: what it leads to, and it
  // itself, stay from now on for a grace time. `name` and `manifest` are resolved.
  absl::Status AdmitArtifact(const std::string& tenant, const v1::Manifest& manifest);
  // Whether the lease is current: for uploads that name one. OK, or Aborted + LEASE_LOST.
  absl::Status CheckLease(const v1::Lease& lease, absl::Time now);

  absl::StatusOr<v1::ListWorkersResponse> ListWorkers(const v1::ListWorkersRequest& request,
                                                      absl::Time now);
  // The union over the workers that are alive; of equal names the last registered worker's entry.
  absl::StatusOr<v1::Catalog> GetCatalog(absl::Time now);

  // Gives every live lease one full lease time again, and its job that much more for progress:
  // after a time in which nobody could report (the store was away, this process stood still).
  absl::Status Renew(absl::Time now);
  // Everything that time alone brings: expired leases, the three clocks, ends of retry pauses,
  // forgotten request ids and workers, retention. To be called about once a second; bounded work a
  // call.
  absl::Status Tick(absl::Time now);

  QueueCounters Counters() const;
  absl::StatusOr<QueueStatistics> Statistics(absl::Time now);

 private:
  Queue(JobStore* store, QueueOptions options);

  template <typename Request, typename Response>
  using Body = absl::StatusOr<Response> (*)(QueueOperation&, const Request&);
  // Runs `body` in a transaction of its own and tells the observer and `done`.
  template <typename Request, typename Response>
  void Write(Body<Request, Response> body, Request request, absl::Time now, Done<Response> done);
  template <typename Request, typename Response>
  absl::StatusOr<Response> WriteAndWait(Body<Request, Response> body, Request request,
                                        absl::Time now);

  // Counts a refusal of the tenant's limits as one.
  void CountRefusal(const absl::Status& status);
  // What another scheduler over the same store published.
  void TakeNews(absl::string_view news);
  // Counts, and tells the observer if the transaction is on disk.
  void Publish(const QueueEffects& effects, bool committed);

  JobStore* const store_;
  const QueueOptions options_;
  mutable absl::Mutex mutex_;
  QueueCounters counters_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_tick_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace quantd
