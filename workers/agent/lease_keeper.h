// One leased attempt as the scheduler sees it: renews the lease and delivers the events on a thread
// of its own, whatever else the worker is busy with, and ends the attempt exactly once.
//
// The worker fences itself: without an acknowledgement for 0.8 of the lease's time, by a clock that
// does not jump, it behaves as if the lease were gone (Gate() waits) until the scheduler has
// answered. It goes on computing, for the scheduler may have been away too and gives every lease
// its time again when it is back.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "proto/quantd/v1/worker.grpc.pb.h"
#include "workers/agent/cancel_scope.h"
#include "workers/agent/metrics.h"
#include "workers/agent/outbox.h"

namespace quantd {

// Thread-safe.
class LeaseKeeper {
 public:
  struct Hooks {
    // Each is called on the keeper's thread without its lock, at most once.
    std::function<void(const std::string& reason)> cancel_requested;
    std::function<void()> lost;
    // About once a second.
    std::function<void()> tick;
  };

  // `stub` and `metrics` are not owned.
  LeaseKeeper(v1::WorkerService::StubInterface* stub, v1::Lease lease, AgentMetrics* metrics,
              Hooks hooks, Clock& clock = Clock::Real());
  // Stops renewing.
  ~LeaseKeeper();

  // The time and the attempt are filled in.
  void Add(v1::JobEvent event);
  void AddLog(v1::LogLine::Source source, const std::string& text);
  // Whoever produces events without a bound has to wait.
  bool Full();
  // Called, on any thread, when the box is no longer full.
  void OnRoom(std::function<void()> callback);

  bool lost();
  // OK when the lease is known to be good. Waits while it is not known; Aborted when it is lost,
  // Cancelled when `scope` is.
  absl::Status Gate(CancelScope& scope);

  // Delivers what is left, then the outcome; both as often as it takes. Returns the job's new
  // state; Aborted when the lease is lost; FailedPrecondition when the output's blobs are not in
  // the store; Cancelled when `scope` is.
  absl::StatusOr<v1::JobState> Complete(v1::CompleteJobRequest request, CancelScope& scope);
  // Gives the job back; one answer or `scope` ends the tries.
  absl::Status Release(const std::string& reason, CancelScope& scope);

  // Stops renewing and ends the call in flight; nothing more will be delivered.
  void Abandon();

  const v1::Lease& lease() const { return lease_; }

 private:
  void Run();
  // One ReportJob.
  absl::Status Report() ABSL_LOCKS_EXCLUDED(mutex_);
  void Answered(const v1::ReportJobResponse& response, absl::Duration asked_at)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Refused(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Due() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Fenced() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellHooks();
  // Waits until every event has been accepted.
  absl::Status Drain(CancelScope& scope);

  v1::WorkerService::StubInterface* const stub_;
  const v1::Lease lease_;
  const absl::Duration lease_time_;
  AgentMetrics* const metrics_;
  const Hooks hooks_;
  Clock& clock_;
  CancelScope calls_;

  absl::Mutex
      call_mutex_;  // One ReportJob, CompleteJob or ReleaseJob at a time; taken before mutex_.
  absl::Mutex mutex_;
  Outbox outbox_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_room_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_ack_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_try_ ABSL_GUARDED_BY(mutex_);
  size_t events_max_ ABSL_GUARDED_BY(mutex_);
  bool flush_ ABSL_GUARDED_BY(mutex_) = false;  // Do not wait for a batch to fill.
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) =
      false;  // An outcome was accepted: nothing more is to be said.
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_lost_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancel_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_cancel_ ABSL_GUARDED_BY(mutex_) = false;
  std::string cancel_reason_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace quantd
