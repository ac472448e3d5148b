// The writing half that every store shares: one thread takes the writes in the order of their
// calls, and those that wait while a commit syncs share the next one. What a commit is, the store
// says.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/store/job_store.h"

namespace quantd {

// Counts by upper bounds.
struct CountsByBound {
  explicit CountsByBound(std::vector<double> upper)
      : bounds(std::move(upper)), counts(bounds.size() + 1) {}
  void Add(double value);
  std::vector<double> bounds;
  std::vector<int64_t> counts;
  double sum = 0;
};

class GroupWriter {
 public:
  struct Write {
    JobStore::WriteFn run;
    JobStore::DoneFn done;
    absl::Status result;
  };
  struct Commit {
    absl::Status status;  // An error: nothing of the group was kept, whatever the results say.
    bool wrote = false;   // false: all of them only read.
  };
  // Runs a group in one transaction and sets every result. `after_failure`: the last commit failed,
  // so that this one has to try a write even if the group only reads.
  using RunGroupFn = std::function<Commit(std::vector<Write>* group, bool after_failure)>;

  // `name` appears in logs and errors; `group_max` bounds how long the first of a group waits.
  GroupWriter(std::string name, size_t group_max, RunGroupFn run_group);
  // Runs what was submitted, then ends.
  ~GroupWriter();
  GroupWriter(const GroupWriter&) = delete;
  GroupWriter& operator=(const GroupWriter&) = delete;

  void Submit(JobStore::WriteFn write, JobStore::DoneFn done);
  // From now on writes are refused.
  void Close();
  // Why the last commit failed; OK when it did not.
  absl::Status LastCommit() const;
  // All but wal_bytes.
  JobStoreMetrics Metrics() const;

 private:
  void Loop();
  void Account(const Commit& commit, size_t group_size, absl::Duration took);

  const std::string name_;
  const size_t group_max_;
  const RunGroupFn run_group_;
  mutable absl::Mutex mutex_;
  std::deque<Write> pending_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status last_commit_ ABSL_GUARDED_BY(mutex_);
  int64_t failed_commits_ ABSL_GUARDED_BY(mutex_) = 0;
  CountsByBound commit_seconds_ ABSL_GUARDED_BY(mutex_){
      {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}};
  CountsByBound group_sizes_ ABSL_GUARDED_BY(mutex_){{1, 2, 4, 8, 16, 32, 64, 128, 256}};
  std::thread thread_;  // Last: it uses the others.
};

}  // namespace quantd
