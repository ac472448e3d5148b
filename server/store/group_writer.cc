// The queue of writes, its thread and its figures.
#include "server/store/group_writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace quantd {
namespace {
// Beyond it a caller is told to come back, instead of memory growing.
constexpr size_t kPendingMax = 20'000;
}  // namespace

void CountsByBound::Add(double value) {
  ++counts[std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin()];
  sum += value;
}

GroupWriter::GroupWriter(std::string name, size_t group_max, RunGroupFn run_group)
    : name_(std::move(name)),
      group_max_(group_max),
      run_group_(std::move(run_group)),
      thread_([this] { Loop(); }) {}

GroupWriter::~GroupWriter() {
  Close();
  thread_.join();
}

void GroupWriter::Close() {
  absl::MutexLock lock(&mutex_);
  closing_ = true;
}

void GroupWriter::Submit(JobStore::WriteFn write, JobStore::DoneFn done) {
  absl::Status refused;
  {
    absl::MutexLock lock(&mutex_);
    if (!closing_ && pending_.size() < kPendingMax) {
      pending_.push_back({.run = std::move(write), .done = std::move(done), .result = {}});
      return;
    }
    refused = closing_ ? absl::UnavailableError("the store is closing")
                       : absl::ResourceExhaustedError(absl::StrCat(
                             kPendingMax, " writes wait for the disk already; try again later"));
  }
  done(refused);
}

void GroupWriter::Loop() {
  while (true) {
    std::vector<Write> group;
    bool after_failure = false;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](GroupWriter* writer) ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return writer->closing_ || !writer->pending_.empty();
          },
          this));
      if (pending_.empty()) return;
      while (!pending_.empty() && group.size() < group_max_) {
        group.push_back(std::move(pending_.front()));
        pending_.pop_front();
      }
      after_failure = !last_commit_.ok();
    }
    FaultPoint("store/group/taken");
    const absl::Duration start = Clock::Real().Monotonic();
    Commit commit = run_group_(&group, after_failure);
    commit.status = Annotate(commit.status, "committing to the database");
    Account(commit, group.size(), Clock::Real().Monotonic() - start);
    for (Write& write : group) {
      FaultPoint("store/group/told");
      write.done(commit.status.ok() ? write.result : commit.status);
    }
  }
}

void GroupWriter::Account(const Commit& commit, size_t group_size, absl::Duration took) {
  absl::MutexLock lock(&mutex_);
  // The first of a row of failures: a full disk would fill the log as well.
  if (!commit.status.ok() && last_commit_.ok()) {
    LogError("commits fail",
             {{"store", name_}, {"error", commit.status.ToString()}, {"writes", group_size}});
  }
  if (!commit.status.ok()) ++failed_commits_;
  if (!commit.status.ok() || commit.wrote) last_commit_ = commit.status;
  if (!commit.wrote) return;
  commit_seconds_.Add(absl::ToDoubleSeconds(took));
  group_sizes_.Add(static_cast<double>(group_size));
}

absl::Status GroupWriter::LastCommit() const {
  absl::MutexLock lock(&mutex_);
  if (closing_) return absl::UnavailableError("the store is closing");
  return Annotate(last_commit_, "the last write failed");
}

JobStoreMetrics GroupWriter::Metrics() const {
  absl::MutexLock lock(&mutex_);
  return {.commit_seconds_bounds = commit_seconds_.bounds,
          .commit_seconds_counts = commit_seconds_.counts,
          .commit_seconds_sum = commit_seconds_.sum,
          .group_size_bounds = group_sizes_.bounds,
          .group_size_counts = group_sizes_.counts,
          .group_size_sum = group_sizes_.sum,
          .failed_commits = failed_commits_,
          .pending_writes = static_cast<int64_t>(pending_.size())};
}

}  // namespace quantd
