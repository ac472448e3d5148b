// A thread reads the stream and takes it up again where it broke; the caller's thread shows,
// redraws and listens for Ctrl-C.
#include "client/follow.h"

#include <deque>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "client/interrupt.h"
#include "client/render/board.h"
#include "proto/errors.h"

namespace quantd {
namespace {

// Longer than a scheduler's restart on a busy machine; a script should not hang for ever on one
// that is gone.
constexpr absl::Duration kReconnectMax = absl::Minutes(5);
constexpr absl::Duration kReconnectPauseFirst = absl::Milliseconds(200);
constexpr absl::Duration kReconnectPauseMax = absl::Seconds(2);
// Events read ahead of a slow terminal; the stream's own flow control holds the rest.
constexpr size_t kQueuedEventsMax = 1000;
constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kSecondInterrupt = absl::Seconds(2);

bool IsTransient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsCancelled(status) ||
         absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsAborted(status);
}

// Reads events in a thread of its own. Thread-safe.
class Source {
 public:
  struct Batch {
    std::vector<v1::JobEvent> events;
    std::vector<std::string> notices;
    bool finished = false;  // Nothing follows.
    absl::Status status;    // Why, when finished.
  };

  Source(const ConnectOptions& connect, const FollowRequest& request)
      : scheduler_(connect), request_(request), thread_([this] { Run(); }) {}
  ~Source() {
    {
      const absl::MutexLock lock(&mutex_);
      stopped_ = true;
    }
    scheduler_.Abort();
    thread_.join();
  }

  // Waits a tick for something to come.
  Batch Take() {
    const absl::MutexLock lock(&mutex_);
    const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return !events_.empty() || !notices_.empty() || finished_;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&ready), kTick);
    Batch batch;
    batch.events.assign(events_.begin(), events_.end());
    batch.notices = std::move(notices_);
    events_.clear();
    notices_.clear();
    batch.finished = finished_;
    batch.status = status_;
    return batch;
  }

 private:
  void Run() {
    absl::Time lost = absl::InfiniteFuture();  // Since when there is no connection.
    absl::Duration pause = kReconnectPauseFirst;
    for (;;) {
      received_ = false;
      absl::Status status = Read();
      if (status.ok()) {
        if (request_.snapshot) return Finish(absl::OkStatus());
        const absl::StatusOr<bool> ended = Ended();
        if (ended.ok() && *ended) return Finish(absl::OkStatus());
        status = ended.status();
      }
      if (Stopped()) return Finish(absl::OkStatus());
      if (!status.ok() && !IsTransient(status)) return Finish(status);
      const absl::Time now = absl::Now();
      if (status.ok() || received_) {
        lost = absl::InfiniteFuture();
        pause = kReconnectPauseFirst;
      }
      if (!status.ok() && lost == absl::InfiniteFuture()) {
        lost = now;
        Notice(absl::StrCat("connection lost, trying again (", status.message(), ")"));
      }
      if (now - lost > kReconnectMax) return Finish(status);
      if (!Pause(std::max(pause, RetryAfterOf(status).value_or(absl::ZeroDuration())))) {
        return Finish(absl::OkStatus());
      }
      pause = std::min(pause * 2, kReconnectPauseMax);
    }
  }

  absl::Status Read() {
    if (request_.sweep) {
      v1::WatchSweepRequest request;
      request.set_name(request_.name);
      request.set_resume_token(resume_token_);
      for (const std::string& kind : request_.kinds) request.add_kinds(kind);
      return scheduler_.Stream(request, [this](const v1::SweepEvent& event) {
        if (!event.resume_token().empty()) resume_token_ = event.resume_token();
        return Push(event.event());
      });
    }
    v1::WatchJobRequest request;
    request.set_name(request_.name);
    request.set_after_sequence(request_.after_sequence);
    request.set_snapshot(request_.snapshot);
    for (const std::string& kind : request_.kinds) request.add_kinds(kind);
    return scheduler_.Stream(request, [this](const v1::JobEvent& event) {
      if (event.has_keep_alive()) {
        request_.after_sequence =
            std::max<int64_t>(request_.after_sequence, event.keep_alive().resume_after_sequence());
        return Push(event);
      }
      if (event.sequence() > 0) {
        if (event.sequence() <= request_.after_sequence) return true;
        request_.after_sequence = event.sequence();
      }
      return Push(event);
    });
  }

  absl::StatusOr<bool> Ended() {
    if (request_.sweep) {
      v1::GetSweepRequest request;
      request.set_name(request_.name);
      const absl::StatusOr<v1::Sweep> sweep = scheduler_.Call(request);
      if (!sweep.ok()) return sweep.status();
      return IsEnded(sweep->state());
    }
    v1::GetJobRequest request;
    request.set_name(request_.name);
    const absl::StatusOr<v1::Job> job = scheduler_.Call(request);
    if (!job.ok()) return job.status();
    return IsEnded(job->state()) && job->last_sequence() <= request_.after_sequence;
  }

  bool Push(const v1::JobEvent& event) {
    received_ = true;
    const absl::MutexLock lock(&mutex_);
    if (event.has_keep_alive()) return !stopped_;
    const auto room = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return events_.size() < kQueuedEventsMax || stopped_;
    };
    mutex_.Await(absl::Condition(&room));
    events_.push_back(event);
    return !stopped_;
  }

  void Notice(std::string text) {
    const absl::MutexLock lock(&mutex_);
    notices_.push_back(std::move(text));
  }

  void Finish(const absl::Status& status) {
    const absl::MutexLock lock(&mutex_);
    finished_ = true;
    status_ = status;
  }

  bool Stopped() {
    const absl::MutexLock lock(&mutex_);
    return stopped_;
  }

  // False when stopped. Without a connection the pause ends when there is one.
  bool Pause(absl::Duration pause) {
    const absl::Time until = absl::Now() + pause;
    if (scheduler_.WaitUntilConnected(absl::ZeroDuration())) {
      const absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopped_), pause);
      return !stopped_;
    }
    while (!Stopped() && absl::Now() < until && !scheduler_.WaitUntilConnected(kTick)) {
    }
    return !Stopped();
  }

  Scheduler scheduler_;  // Of its own, so that Abort ends the stream and nothing else.
  FollowRequest request_;
  std::string resume_token_;
  bool received_ = false;
  absl::Mutex mutex_;
  std::deque<v1::JobEvent> events_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> notices_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // Last: it uses all of the above.
};

absl::Status Cancel(Session* session, const FollowRequest& request) {
  constexpr char kReason[] = "cancelled with Ctrl-C in quantctl";
  if (request.sweep) {
    v1::CancelSweepRequest cancel;
    cancel.set_name(request.name);
    cancel.set_reason(kReason);
    return session->scheduler().Call(cancel).status();
  }
  v1::CancelJobRequest cancel;
  cancel.set_name(request.name);
  cancel.set_reason(kReason);
  return session->scheduler().Call(cancel).status();
}

// After the first Ctrl-C: says how to come back, and waits a moment for the second one.
absl::StatusOr<FollowEnd> Detach(Session* session, const FollowRequest& request,
                                 const Interrupts& interrupts, View* view) {
  const std::string kind = request.sweep ? "sweep" : "job";
  const std::string id = request.name.substr(request.name.rfind('/') + 1);
  view->Notice(absl::StrCat("detached; the ", kind, " goes on. Watch it again with: quantctl ",
                            kind, "s watch ", id, "\nCtrl-C again within 2 seconds cancels it."));
  const absl::Time until = absl::Now() + kSecondInterrupt;
  while (absl::Now() < until) {
    if (interrupts.count() > 1) {
      const absl::Status status = Cancel(session, request);
      if (!status.ok()) return status;
      view->Notice(absl::StrCat("asked the scheduler to cancel the ", kind));
      return FollowEnd::kCancelled;
    }
    absl::SleepFor(kTick);
  }
  return FollowEnd::kDetached;
}

}  // namespace

absl::StatusOr<FollowEnd> Follow(Session* session, const FollowRequest& request, View* view) {
  const Interrupts interrupts;
  const absl::Time deadline = absl::Now() + session->timeout();
  FollowEnd end = FollowEnd::kEnded;
  {
    Source source(session->connection(), request);
    for (;;) {
      const Source::Batch batch = source.Take();
      for (const std::string& notice : batch.notices) view->Notice(notice);
      for (const v1::JobEvent& event : batch.events) view->Event(event);
      const absl::Time now = absl::Now();
      view->Tick(now);
      if (batch.finished) {
        if (!batch.status.ok()) return batch.status;
        break;
      }
      if (interrupts.count() > 0) {
        end = FollowEnd::kDetached;
        break;
      }
      if (now >= deadline) {
        end = FollowEnd::kTimedOut;
        break;
      }
    }
  }
  view->End();
  if (end == FollowEnd::kDetached) return Detach(session, request, interrupts, view);
  if (end == FollowEnd::kTimedOut) {
    view->Notice("--timeout ran out; the job goes on");
  }
  return end;
}

}  // namespace quantd
