// The durable truth of the scheduler: jobs, their events, sweeps, workers, leases, request ids. A
// store offers transactions and primitives and holds no policy: what a state change means is the
// Queue's business (server/scheduler). It refuses nothing but broken invariants of its own (a
// compare-and-set on an old version, a second row of one name). What it stores and compares are the
// times it is given; Now() is the clock that all schedulers over one store share.
//
// Implementations: SQLite (sqlite_job_store.h) for one scheduler, PostgreSQL (postgres_job_store.h)
// for several side by side. Write transactions never overlap, not even those of different
// processes: whoever runs one sees all that came before it. job_store_test.cc is the conformance
// test of both.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/sweep.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

// One job without its large immutable parts (spec, outcome, checkpoint), which have accessors of
// their own: a renewal rewrites a few hundred bytes. Times that do not apply are InfiniteFuture.
struct JobRow {
  int64_t seq = 0;        // Order of submission; given by InsertJob.
  std::string name;       // "tenants/{tenant}/jobs/{job}".
  std::string tenant;     // "{tenant}".
  int64_t sweep_seq = 0;  // 0: of no sweep.
  int64_t needs = 0;      // From InternNeeds: jobs with equal needs fit the same workers.
  int64_t version = 0;    // Grows with every update: the compare-and-set's expectation.
  v1::JobState state = v1::JOB_STATE_PENDING;
  int64_t priority = 0;
  absl::Time not_before = absl::InfinitePast();
  absl::Time clock_due = absl::InfiniteFuture();      // The earliest of the job's clocks.
  absl::Time lease_expires = absl::InfiniteFuture();  // Set while leased.
  absl::Time queued_time = absl::InfiniteFuture();    // Entered QUEUED last.
  absl::Time run_time = absl::InfiniteFuture();       // The current attempt's start.
  absl::Time progress_time = absl::InfiniteFuture();  // The current attempt's last progress.
  absl::Time end_time = absl::InfiniteFuture();
  std::string lease_worker;      // "workers/{worker}" while leased.
  int64_t fencing_token = 0;     // Of the current or last lease.
  bool lease_reported = false;   // The worker has shown that it knows of the lease.
  int64_t attempt_events = 0;    // Events accepted from the current attempt.
  int64_t blocks_done = 0;       // The most that a checkpoint held; grows only.
  int64_t counted_attempts = 0;  // Attempts since then that consumed the budget.
  int64_t released_in_row = 0;   // Consecutive attempts given back undone.
  int64_t gpus = 0;              // That the current or last attempt occupies.
  int64_t outcome_token = 0;     // The lease whose outcome was accepted last ...
  std::string outcome_digest;    // ... what it said ...
  v1::JobState outcome_state = v1::JOB_STATE_UNSPECIFIED;  // ... and the state it led to.
  int64_t last_sequence = 0;  // Of the job's events; kept by AppendEvent.
  v1::Job record;  // Without result and output; of the spec only its kind, limits, retry.
};

struct DependencyRow {
  int64_t job = 0;  // seq of the one that waits
  int64_t on = 0;   // seq of the one waited for
  v1::Dependency::Condition condition = v1::Dependency::SUCCEEDED;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;  // of the one waited for; read only
};

struct EventRow {
  int64_t position = 0;  // Grows over all events of the store in commit order.
  v1::JobEvent event;    // With `sequence` and `job` set.
};

struct SweepRow {
  int64_t seq = 0;
  std::string name;
  std::string tenant;
  int64_t version = 0;
  int64_t max_parallel = 0;  // 0: no limit.
  v1::Sweep record;          // Without spec.
};

struct WorkerRow {
  std::string name;  // "workers/{worker}".
  std::string instance_id;
  std::string past_instances;  // Replaced ones, newest first, separated by spaces.
  bool draining = false;
  absl::Time register_time = absl::InfinitePast();
  absl::Time last_seen = absl::InfinitePast();
  int64_t disk_free_bytes = 0;
  // The last poll that was given a lease.
  std::string request_id;
  std::string request_job;
  int64_t request_token = 0;
  v1::Worker record;  // As the worker registered.
};

// What a request id was used for: the job or sweep, and the digest of the request's body.
struct RequestRow {
  std::string tenant;
  std::string request_id;
  std::string body_digest;
  std::string resource;
  absl::Time time = absl::InfinitePast();
};

// A small record of another room (an access token, a sealed secret), by collection and key. The
// store does not look into it.
struct KeptRecord {
  std::string key;
  std::string body;
};

// What a job may lead to in the artifact store, for whoever removes the rest.
struct JobReferences {
  int64_t seq = 0;
  std::string tenant;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  v1::JobSpec spec;
  v1::Job outcome;  // With `output` only.
  v1::Manifest checkpoint;
};

// Something in the artifact store that no job leads to, since when it was found so.
struct GarbageMark {
  std::string key;
  absl::Time since = absl::InfinitePast();
  bool doomed = false;  // Is being removed: nothing may lead to it any more.
};

// Filters of a list; the newest first. `before_seq` is the pagination key: only older rows (0: from
// the newest).
struct JobFilter {
  std::string tenant;
  std::vector<v1::JobState> states;  // Empty: all.
  int64_t sweep_seq = 0;             // 0: all.
  std::vector<std::pair<std::string, std::string>> labels;
  int64_t before_seq = 0;
  int64_t limit = 50;
};

// Which events: those after `after` (a sequence in ReadEvents, a position in ReadSweepEvents).
struct EventFilter {
  int64_t after = 0;
  uint32_t kinds = ~uint32_t{0};  // Bit n: events whose field number in JobEvent's oneof is n.
  int64_t limit = 1000;
  int64_t bytes_max = 1 << 20;  // Stops after the event that passes this.
};

// How many jobs with these needs stand in this state.
struct JobCount {
  std::string needs_key;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  int64_t count = 0;
};

// How many jobs of a tenant stand in a state that is no end, by priority.
struct TenantCount {
  std::string tenant;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  int64_t priority = 0;
  int64_t count = 0;
};

// A QUEUED job before which no other of its tenant, priority and needs comes.
struct RunnableHead {
  int64_t seq = 0;
  std::string tenant;
  int64_t priority = 0;
  absl::Time queued_time = absl::InfiniteFuture();
};

struct LeasedJob {
  std::string tenant;
  absl::Time run_time = absl::InfiniteFuture();
  int64_t gpus = 0;
};

struct SweepLoad {
  int64_t sweep_seq = 0;
  int64_t running = 0;
  int64_t max_parallel = 0;
};

// A consistent snapshot. Valid only inside the function it is passed to; not thread-safe. Every
// method may fail with Internal (the database is damaged) or Unavailable (for now).
class ReadTxn {
 public:
  virtual ~ReadTxn() = default;

  // NotFound names the job.
  virtual absl::StatusOr<JobRow> GetJob(absl::string_view name) = 0;
  virtual absl::StatusOr<JobRow> GetJob(int64_t seq) = 0;
  virtual absl::StatusOr<v1::JobSpec> GetSpec(int64_t seq) = 0;
  // A Job with only `result` and `output` set; empty when the job has none.
  virtual absl::StatusOr<v1::Job> GetOutcome(int64_t seq) = 0;
  // The latest checkpoint's manifest; empty when there is none.
  virtual absl::StatusOr<v1::Manifest> GetCheckpoint(int64_t seq) = 0;
  virtual absl::StatusOr<std::vector<JobRow>> ListJobs(const JobFilter& filter) = 0;
  // Jobs of a sweep in the order of submission.
  virtual absl::StatusOr<std::vector<JobRow>> SweepJobs(int64_t sweep_seq) = 0;
  virtual absl::StatusOr<int64_t> UnendedSweepJobs(int64_t sweep_seq) = 0;
  // Number of the tenant's QUEUED jobs of this priority from `first` to before `end`.
  virtual absl::StatusOr<int64_t> QueuedBetween(absl::string_view tenant, int64_t priority,
                                                int64_t first, int64_t end) = 0;
  // Those above 0, ordered by tenant, state and priority.
  virtual absl::StatusOr<std::vector<TenantCount>> TenantCounts() = 0;
  virtual absl::StatusOr<std::vector<JobCount>> CountJobs() = 0;

  virtual absl::StatusOr<std::vector<DependencyRow>> Dependencies(int64_t seq) = 0;
  virtual absl::StatusOr<std::vector<DependencyRow>> Dependents(int64_t seq) = 0;

  // Ordered by sequence (position).
  virtual absl::StatusOr<std::vector<EventRow>> ReadEvents(int64_t seq,
                                                           const EventFilter& filter) = 0;
  virtual absl::StatusOr<std::vector<EventRow>> ReadSweepEvents(int64_t sweep_seq,
                                                                const EventFilter& filter) = 0;

  virtual absl::StatusOr<SweepRow> GetSweep(absl::string_view name) = 0;
  virtual absl::StatusOr<SweepRow> GetSweep(int64_t seq) = 0;
  virtual absl::StatusOr<v1::SweepSpec> GetSweepSpec(int64_t seq) = 0;
  virtual absl::StatusOr<std::vector<SweepRow>> ListSweeps(absl::string_view tenant,
                                                           int64_t before_seq, int64_t limit) = 0;

  virtual absl::StatusOr<std::optional<WorkerRow>> GetWorker(absl::string_view name) = 0;
  // All of them, by name.
  virtual absl::StatusOr<std::vector<WorkerRow>> Workers() = 0;
  // Jobs that the worker has a lease for.
  virtual absl::StatusOr<std::vector<JobRow>> WorkerLeases(absl::string_view worker) = 0;

  virtual absl::StatusOr<std::optional<RequestRow>> GetRequest(absl::string_view tenant,
                                                               absl::string_view request_id) = 0;

  // The job that was last said to be what `inputs` (a digest) lead to in this tenant.
  virtual absl::StatusOr<std::optional<int64_t>> FindResult(absl::string_view tenant,
                                                            absl::string_view inputs) = 0;

  // A collection's records, ordered by key.
  virtual absl::StatusOr<std::vector<KeptRecord>> Records(absl::string_view collection) = 0;
  // One record's body.
  virtual absl::StatusOr<std::optional<std::string>> GetRecord(absl::string_view collection,
                                                               absl::string_view key) = 0;
  // What the schedulers over this store share beside the rows; empty when it was never put.
  virtual absl::StatusOr<std::string> GetSetting(absl::string_view name) = 0;

  // Garbage. All jobs, ordered by seq: those after `after`, at most `limit`.
  virtual absl::StatusOr<std::vector<JobReferences>> ReadReferences(int64_t after,
                                                                    int64_t limit) = 0;
  // Of these keys, or all there are, ordered by key.
  virtual absl::StatusOr<std::vector<GarbageMark>> GarbageMarks(
      const std::vector<std::string>& keys) = 0;
  virtual absl::StatusOr<std::vector<GarbageMark>> AllGarbageMarks() = 0;

  // Scheduling. Needs that some QUEUED job has, with their keys.
  virtual absl::StatusOr<std::vector<std::pair<int64_t, std::string>>> QueuedNeeds() = 0;
  virtual absl::StatusOr<std::string> GetNeeds(int64_t needs) = 0;
  // Sweeps with a parallelism limit that have leased jobs.
  virtual absl::StatusOr<std::vector<SweepLoad>> SweepLoads() = 0;
  // Of every tenant, priority and one of these needs the QUEUED job with the least seq, among those
  // not of these sweeps and with not_before <= now. In no order.
  virtual absl::StatusOr<std::vector<RunnableHead>> RunnableHeads(
      const std::vector<int64_t>& needs, const std::vector<int64_t>& excluded_sweeps,
      absl::Time now) = 0;
  virtual absl::StatusOr<std::vector<LeasedJob>> LeasedJobs() = 0;

  // Tenants. What each has had of the leases, in units of the scheduler's; "" stands for a mark of
  // its own.
  virtual absl::StatusOr<std::vector<std::pair<std::string, int64_t>>> TenantShares() = 0;
  // By tenant, of a day counted from 1970.
  virtual absl::StatusOr<std::vector<std::pair<std::string, int64_t>>> GpuSeconds(int64_t day) = 0;
  // The sum of what PutArtifactBytes said.
  virtual absl::StatusOr<int64_t> ArtifactBytes(absl::string_view tenant) = 0;

  // Whether a QUEUED job's not_before lies in (after, until].
  virtual absl::StatusOr<bool> BecomesRunnable(absl::Time after, absl::Time until) = 0;
  // seqs, the longest due first, at most `limit`.
  virtual absl::StatusOr<std::vector<int64_t>> ExpiredLeases(absl::Time now, int64_t limit) = 0;
  virtual absl::StatusOr<std::vector<int64_t>> DueClocks(absl::Time now, int64_t limit) = 0;
  virtual absl::StatusOr<std::vector<int64_t>> Leased() = 0;
};

// A write transaction: sees its own writes, and all or none of them are kept.
class Txn : public ReadTxn {
 public:
  // Sets row->seq, row->version and the labels' index. AlreadyExists when the name is taken.
  virtual absl::Status InsertJob(JobRow* row, const v1::JobSpec& spec) = 0;
  // Writes everything but name, tenant and sweep if the stored version is still row->version, which
  // then grows; Aborted otherwise.
  virtual absl::Status UpdateJob(JobRow* row) = 0;
  virtual absl::Status PutOutcome(int64_t seq, const v1::Job& outcome) = 0;
  virtual absl::Status PutCheckpoint(int64_t seq, const v1::Manifest& checkpoint) = 0;
  virtual absl::Status InsertDependency(const DependencyRow& row) = 0;
  // Gives the event the job's next sequence number and sets it in *row (UpdateJob must follow in
  // the same transaction and keeps the number).
  virtual absl::Status AppendEvent(JobRow* row, v1::JobEvent event) = 0;
  // The same number for the same key, new or old.
  virtual absl::StatusOr<int64_t> InternNeeds(absl::string_view key) = 0;

  // Inserts or replaces.
  virtual absl::Status PutTenantShares(
      const std::vector<std::pair<std::string, int64_t>>& shares) = 0;
  virtual absl::Status AddGpuSeconds(absl::string_view tenant, int64_t day, int64_t seconds) = 0;
  // Inserts or replaces; fine when there is nothing to delete.
  virtual absl::Status PutArtifactBytes(absl::string_view tenant, absl::string_view sha256,
                                        int64_t bytes) = 0;
  virtual absl::Status DeleteArtifactBytes(absl::string_view tenant, absl::string_view sha256) = 0;

  virtual absl::Status InsertSweep(SweepRow* row, const v1::SweepSpec& spec) = 0;
  virtual absl::Status UpdateSweep(SweepRow* row) = 0;

  // Inserts or replaces.
  virtual absl::Status PutWorker(const WorkerRow& row) = 0;
  // Everything of the row but `record` and the instances: cheap.
  virtual absl::Status TouchWorker(const WorkerRow& row) = 0;
  virtual absl::Status DeleteWorker(absl::string_view name) = 0;

  // AlreadyExists when (tenant, request_id) is there.
  virtual absl::Status InsertRequest(const RequestRow& row) = 0;
  virtual absl::StatusOr<int64_t> DeleteRequestsBefore(absl::Time time, int64_t limit) = 0;

  // Says that this job is what the inputs lead to, in place of an earlier one; forgotten with it.
  virtual absl::Status PutResult(absl::string_view tenant, absl::string_view inputs,
                                 int64_t job) = 0;

  // Inserts or replaces.
  virtual absl::Status PutRecord(absl::string_view collection, const KeptRecord& record) = 0;
  // Fine when it is not there.
  virtual absl::Status DeleteRecord(absl::string_view collection, absl::string_view key) = 0;
  virtual absl::Status PutSetting(absl::string_view name, absl::string_view value) = 0;
  // Inserts or replaces.
  virtual absl::Status PutGarbageMark(const GarbageMark& mark) = 0;
  virtual absl::Status DeleteGarbageMarks(const std::vector<std::string>& keys) = 0;
  // Tells the other schedulers over this store, once the transaction is on disk (JobStore::Follow).
  // At most 2,000 bytes of text without a newline.
  virtual void Publish(std::string news) = 0;

  // Larger than every number it ever returned, over restarts too.
  virtual absl::StatusOr<int64_t> NextFencingToken() = 0;

  // Retention. Removes ended jobs (with events, spec, outcome, what FindResult finds) that ended
  // before `time`, that no unended job depends on and that belong to no sweep with unended jobs; at
  // most `limit`. Sweeps whose jobs are all gone go too. Returns the number of jobs removed.
  virtual absl::StatusOr<int64_t> DeleteJobsEndedBefore(absl::Time time, int64_t limit) = 0;
};

// Cumulative since the store was opened.
struct JobStoreMetrics {
  // commit_seconds_counts[i]: commits that took at most commit_seconds_bounds[i] and longer than
  // the bound before; one count more than bounds.
  std::vector<double> commit_seconds_bounds;
  std::vector<int64_t> commit_seconds_counts;
  double commit_seconds_sum = 0;
  // The same for the number of transactions a commit carried.
  std::vector<double> group_size_bounds;
  std::vector<int64_t> group_size_counts;
  double group_size_sum = 0;
  int64_t failed_commits = 0;
  int64_t wal_bytes = 0;
  int64_t pending_writes = 0;
};

// Thread-safe.
class JobStore {
 public:
  using WriteFn = std::function<absl::Status(Txn&)>;
  using ReadFn = std::function<absl::Status(ReadTxn&)>;
  using DoneFn = std::function<void(absl::Status)>;
  using NewsFn = std::function<void(absl::string_view)>;

  virtual ~JobStore() = default;

  // Runs `write` in a transaction, later and on another thread, in the order of the calls; then
  // calls `done` with OK after the transaction is on disk, or with the error after none of it is.
  // The function's own error is returned as it is and undoes its writes. ResourceExhausted: the
  // disk is full, or too many writes wait; Unavailable: storage failed for now (when the database
  // went away while it committed and does not come back, its words say that the outcome is not
  // known); the store stays usable after both. `write` may be run more than once and must not
  // block, nor use the store other than through its argument. `done` runs on the writer's thread:
  // it must be short and must not call Run.
  virtual void Submit(WriteFn write, DoneFn done) = 0;
  // The same, waiting. Not to be called from `done`.
  absl::Status Run(WriteFn write);
  // Runs `read` on the calling thread over a snapshot that holds every transaction whose `done` was
  // called.
  virtual absl::Status Read(const ReadFn& read) = 0;
  // The store's clock: the same for every scheduler over it, up to the delay of a message. It goes
  // on while the store cannot be reached.
  virtual absl::Time Now() const = 0;
  // `news` is called, on a thread of the store's, with what other processes published, in the order
  // of their commits; with an empty text when some may have been missed. An empty function ends it,
  // and none is running when the call returns.
  virtual void Follow(NewsFn news) = 0;
  virtual JobStoreMetrics Metrics() const = 0;
  // Whether a write would be taken now: for readiness. Cheap.
  virtual absl::Status Health() const = 0;
};

}  // namespace quantd
