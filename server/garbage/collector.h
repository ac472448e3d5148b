// Removes from the artifact store what no job leads to, by mark and grace. Not removed is what a
// job that is still in the store names (spec, output, checkpoint, files it has told of so far), and
// what an artifact names that is still there.
//
// A run marks what it finds without a way to it (a row of the store with the time), takes marks
// away from what has one again, and dooms what has been marked for a grace time. Only what is
// doomed is removed, and only then is its row deleted. Why nothing reachable goes, with any number
// of schedulers over one store:
//   - Whatever makes a thing reachable (a submit, a file, a checkpoint, an outcome) does so in a
//     write transaction that also takes the thing's mark away, and is refused when it is doomed
//     (references.h). Write transactions exclude each other.
//   - A run looks for ways in a snapshot taken after the marks that it acts on were written. A way
//     made before the snapshot is seen; one made after it has taken the mark away, which the
//     transaction that dooms would find missing; one that comes later still is refused.
//   - "It is there" is asked of the artifact store only after Keeper::Keep, so from then on it
//     stays for a grace time, or the answer is that it is being removed. Requests are far shorter
//     than the grace time; workers' are refused when they are not (their lease is over).
// One scheduler collects at a time: a turn in the store, which every transaction of a run checks
// and renews, and whose end it looks at before every removal. A run that dies leaves doomed rows,
// which the next one finishes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "server/artifacts/artifact_store.h"
#include "server/store/job_store.h"

namespace quantd {

// What deliberately broken variants leave out, so that the test can prove that it would notice.
struct GarbageFaults {
  bool forget_files = false;       // files of running jobs are not looked for
  bool believe_old_marks = false;  // marks that were taken away since are acted on
};

struct GarbageOptions {
  // Infinite: nothing is ever removed, and Start does nothing.
  absl::Duration grace = absl::InfiniteDuration();
  // Between two runs.
  absl::Duration pause = absl::Hours(1);
  // For tests: called between the steps of a run, to let others act there; and the time, otherwise
  // the store's.
  std::function<void()> between = {};
  std::function<absl::Time()> now = {};
  GarbageFaults faults = {};
};

// The first two are of the last whole run, the others cumulative since the start.
struct GarbageCounters {
  int64_t marked = 0;        // Blobs and artifacts without a way to them.
  int64_t marked_bytes = 0;  // In these blobs.
  int64_t runs = 0;
  int64_t failed_runs = 0;
  int64_t spared = 0;  // Marks taken away because there was a way again.
  int64_t removed_blobs = 0;
  int64_t removed_artifacts = 0;
  int64_t removed_bytes = 0;
};

// Thread-safe. Neither store is owned; both outlive the collector.
class GarbageCollector {
 public:
  GarbageCollector(JobStore* store, ArtifactStore* artifacts, GarbageOptions options);
  ~GarbageCollector();

  // Runs now and then on a thread of its own.
  void Start();
  // Ends a run between two of its steps; none begins after it. Idempotent.
  void Stop();
  // One run, on this thread; nothing when it is another scheduler's turn.
  absl::Status Run();
  GarbageCounters Counters() const;

 private:
  struct Found;

  bool Stopped() const { return stop_.HasBeenNotified(); }
  absl::Time Now() const { return options_.now ? options_.now() : store_->Now(); }
  // `write` in a transaction that holds the turn. Aborted: the turn is another's.
  absl::Status InTurn(const std::function<absl::Status(Txn&)>& write)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  absl::Status RunWhole() ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  absl::Status List(Found* found);
  absl::Status Walk(Found* found);
  absl::Status WalkJob(ReadTxn& txn, const JobReferences& job, Found* found);
  absl::Status WalkArtifacts(Found* found);
  absl::Status Mark(const Found& found) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  absl::Status Doom(const Found& found) ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  // Removes what these keys stand for and then forgets their marks.
  absl::Status Remove(const std::vector<std::string>& keys)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(run_mutex_);
  absl::Status RemoveOne(const std::string& key, int64_t* bytes);

  JobStore* const store_;
  ArtifactStore* const artifacts_;
  const GarbageOptions options_;
  const std::string name_;  // In the turn.
  absl::Notification stop_;
  std::thread thread_;
  absl::Mutex run_mutex_;  // One run at a time.
  absl::Time turn_end_ ABSL_GUARDED_BY(run_mutex_) = absl::InfinitePast();
  mutable absl::Mutex mutex_;
  GarbageCounters counters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd
