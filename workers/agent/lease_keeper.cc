// A loop: wait until a batch is worth sending or the lease has to be renewed, call, look at the
// answer.
#include "workers/agent/lease_keeper.h"

#include <algorithm>
#include <utility>

#include "base/fault_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/errors.h"

namespace quantd {
namespace {

constexpr absl::Duration kBatchTime = absl::Milliseconds(200);
constexpr absl::Duration kTick = absl::Seconds(1);
constexpr absl::Duration kCallTime = absl::Seconds(10);
// Renewals come no further apart, however long the lease: their answers are how a cancel is
// learned.
constexpr absl::Duration kRenewTimeMax = absl::Seconds(3);
constexpr size_t kEventsMax = 2'000;
constexpr double kFencedShare = 0.8;

absl::Duration LeaseTime(const v1::Lease& lease) {
  const absl::Duration time =
      absl::Seconds(lease.lease_time().seconds()) + absl::Nanoseconds(lease.lease_time().nanos());
  return time > absl::ZeroDuration() ? time : absl::Seconds(30);
}

bool MeansLost(const absl::Status& status) {
  // Any other ABORTED, and a job that is not known, are the same to us: our writes are not wanted.
  return absl::IsAborted(status) || absl::IsNotFound(status);
}

}  // namespace

LeaseKeeper::LeaseKeeper(v1::WorkerService::StubInterface* stub, v1::Lease lease,
                         AgentMetrics* metrics, Hooks hooks, Clock& clock)
    : stub_(stub),
      lease_(std::move(lease)),
      lease_time_(LeaseTime(lease_)),
      metrics_(metrics),
      hooks_(std::move(hooks)),
      clock_(clock),
      last_ack_(clock.Monotonic()),
      last_try_(last_ack_),
      events_max_(kEventsMax) {
  thread_ = std::thread([this] { Run(); });
}

LeaseKeeper::~LeaseKeeper() {
  Abandon();
  thread_.join();
}

void LeaseKeeper::Abandon() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  calls_.Cancel();
}

void LeaseKeeper::Add(v1::JobEvent event) {
  const absl::Time now = clock_.Now();
  if (!event.has_time()) {
    const int64_t nanos = absl::ToUnixNanos(now);
    event.mutable_time()->set_seconds(nanos / 1'000'000'000);
    event.mutable_time()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  }
  event.set_attempt(lease_.attempt());
  if (event.has_failure()) event.mutable_failure()->set_attempt(lease_.attempt());
  absl::MutexLock lock(&mutex_);
  outbox_.Add(std::move(event), clock_.Monotonic());
}

void LeaseKeeper::AddLog(v1::LogLine::Source source, const std::string& text) {
  v1::JobEvent event;
  event.mutable_log()->set_source(source);
  event.mutable_log()->set_text(text);
  Add(std::move(event));
}

bool LeaseKeeper::Full() {
  absl::MutexLock lock(&mutex_);
  return outbox_.Full();
}

void LeaseKeeper::OnRoom(std::function<void()> callback) {
  absl::MutexLock lock(&mutex_);
  on_room_ = std::move(callback);
}

bool LeaseKeeper::lost() {
  absl::MutexLock lock(&mutex_);
  return lost_;
}

bool LeaseKeeper::Fenced() const {
  return clock_.Monotonic() - last_ack_ > lease_time_ * kFencedShare;
}

bool LeaseKeeper::Due() const {
  if (lost_ || ended_) return false;
  const absl::Duration now = clock_.Monotonic();
  if (now - last_try_ >= std::min(lease_time_ / 3, kRenewTimeMax)) return true;
  const std::optional<absl::Duration> oldest = outbox_.OldestUnsent();
  if (oldest.has_value()) return flush_ || now - *oldest >= kBatchTime || outbox_.Full();
  return !outbox_.Empty();  // Sent, not acknowledged: to be sent again.
}

void LeaseKeeper::Run() {
  Backoff backoff(absl::Milliseconds(100), std::min(absl::Seconds(2), lease_time_ / 6));
  absl::Duration last_tick = clock_.Monotonic();
  while (true) {
    bool due = false;
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) return;
      due = Due();
      // The wait is short when something is in the box and long when only the lease is to be kept.
      if (!due) {
        const auto woken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
          return stop_ || (flush_ && !outbox_.Empty() && !lost_ && !ended_);
        };
        const absl::Duration wait =
            outbox_.Empty() ? std::min(kBatchTime, lease_time_ / 12) : absl::Milliseconds(50);
        mutex_.AwaitWithTimeout(absl::Condition(&woken), wait);
      }
    }
    if (due) {
      const absl::Status status = Report();
      TellHooks();
      if (status.ok()) {
        backoff.Reset();
      } else {
        calls_.SleepFor(backoff.Next());
      }
    }
    if (clock_.Monotonic() - last_tick >= kTick) {
      last_tick = clock_.Monotonic();
      if (hooks_.tick) hooks_.tick();
    }
  }
}

absl::Status LeaseKeeper::Report() {
  absl::MutexLock calling(&call_mutex_);
  v1::ReportJobRequest request;
  absl::Duration asked_at;
  {
    absl::MutexLock lock(&mutex_);
    if (lost_ || ended_ || stop_) return absl::OkStatus();
    asked_at = clock_.Monotonic();
    last_try_ = asked_at;
    Outbox::Batch batch = outbox_.Take(asked_at, events_max_);
    request.set_first_event(batch.first_event);
    for (v1::JobEvent& event : batch.events) *request.add_events() = std::move(event);
  }
  *request.mutable_lease() = lease_;
  v1::ReportJobResponse response;
  CancelScope::Call call(calls_, std::min(kCallTime, lease_time_));
  const absl::Status status = FromGrpcStatus(stub_->ReportJob(&call.context, request, &response));
  FaultPoint("worker/reported");
  std::function<void()> on_room;
  {
    absl::MutexLock lock(&mutex_);
    const bool was_full = outbox_.Full();
    if (status.ok()) {
      Answered(response, asked_at);
    } else {
      Refused(status);
    }
    if (was_full && !outbox_.Full()) on_room = on_room_;
  }
  if (on_room) on_room();
  return status;
}

void LeaseKeeper::Answered(const v1::ReportJobResponse& response, absl::Duration asked_at) {
  // From the moment of asking: when the scheduler began to count is not known, but it was not
  // before.
  last_ack_ = std::max(last_ack_, asked_at);
  events_max_ = kEventsMax;
  metrics_->SchedulerAnswered();
  if (!outbox_.Accept(response.accepted_events())) {
    LogError("the scheduler counts this attempt's events differently; giving the attempt up",
             {{"job", lease_.job()}, {"accepted_events", response.accepted_events()}});
    lost_ = true;
  }
  if (response.cancel_requested() && !cancel_) {
    cancel_ = true;
    cancel_reason_ = response.cancel_reason();
  }
}

void LeaseKeeper::Refused(const absl::Status& status) {
  if (stop_) return;
  metrics_->CallFailed("ReportJob", status.code());
  if (MeansLost(status) || absl::IsOutOfRange(status)) {
    LogWarning(
        "the lease is lost",
        {{"job", lease_.job()}, {"attempt", lease_.attempt()}, {"reason", status.ToString()}});
    lost_ = true;
    return;
  }
  if (!absl::IsInvalidArgument(status)) {
    LogWarning("cannot reach the scheduler for a lease; trying on",
               {{"job", lease_.job()}, {"error", status.ToString()}});
    return;
  }
  // An event that the scheduler does not take must not hold up those behind it: look for it one by
  // one.
  if (events_max_ > 1) {
    events_max_ = 1;
    return;
  }
  LogError("the scheduler refuses an event", {{"job", lease_.job()}, {"error", status.ToString()}});
  outbox_.ReplaceFront(absl::StrCat("an event was refused by the scheduler: ", status.message()));
}

void LeaseKeeper::TellHooks() {
  bool lost = false;
  bool cancel = false;
  std::string reason;
  {
    absl::MutexLock lock(&mutex_);
    lost = lost_ && !std::exchange(told_lost_, lost_);
    cancel = cancel_ && !std::exchange(told_cancel_, cancel_);
    reason = cancel_reason_;
  }
  if (lost && hooks_.lost) hooks_.lost();
  if (cancel && hooks_.cancel_requested) hooks_.cancel_requested(reason);
}

absl::Status LeaseKeeper::Gate(CancelScope& scope) {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (lost_) return absl::AbortedError(absl::StrCat("the lease of ", lease_.job(), " is lost"));
      if (!Fenced()) return absl::OkStatus();
    }
    if (!scope.SleepFor(absl::Milliseconds(100))) return absl::CancelledError("told to stop");
  }
}

absl::Status LeaseKeeper::Drain(CancelScope& scope) {
  {
    absl::MutexLock lock(&mutex_);
    outbox_.FlushProgress(clock_.Monotonic());
    flush_ = true;
  }
  while (true) {
    if (scope.cancelled()) return absl::CancelledError("told to stop");
    QD_RETURN_IF_ERROR(Gate(scope));
    absl::MutexLock lock(&mutex_);
    const auto done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return lost_ || outbox_.Empty();
    };
    mutex_.AwaitWithTimeout(absl::Condition(&done), absl::Milliseconds(100));
    if (outbox_.Empty()) return absl::OkStatus();
  }
}

absl::StatusOr<v1::JobState> LeaseKeeper::Complete(v1::CompleteJobRequest request,
                                                   CancelScope& scope) {
  *request.mutable_lease() = lease_;
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(2));
  while (true) {
    QD_RETURN_IF_ERROR(Drain(scope));
    absl::Status status;
    {
      absl::MutexLock calling(&call_mutex_);
      {
        absl::MutexLock lock(&mutex_);
        request.set_first_event(outbox_.Take(clock_.Monotonic(), 0).first_event);
      }
      v1::CompleteJobResponse response;
      CancelScope::Call call(scope, kCallTime);
      status = FromGrpcStatus(stub_->CompleteJob(&call.context, request, &response));
      absl::MutexLock lock(&mutex_);
      if (status.ok() || MeansLost(status)) ended_ = true;
      if (status.ok()) return response.state();
    }
    if (MeansLost(status)) return absl::AbortedError(status.message());
    metrics_->CallFailed("CompleteJob", status.code());
    if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) return status;
    LogWarning("cannot deliver an outcome; trying on",
               {{"job", lease_.job()}, {"error", status.ToString()}});
    if (!scope.SleepFor(backoff.Next())) return absl::CancelledError("told to stop");
  }
}

absl::Status LeaseKeeper::Release(const std::string& reason, CancelScope& scope) {
  // Logs and the checkpoint first, but not at any price: the machine may be gone in seconds.
  Drain(scope).IgnoreError();
  v1::ReleaseJobRequest request;
  *request.mutable_lease() = lease_;
  request.set_reason(reason);
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(1));
  while (true) {
    absl::Status status;
    {
      absl::MutexLock calling(&call_mutex_);
      v1::ReleaseJobResponse response;
      CancelScope::Call call(scope, absl::Seconds(3));
      status = FromGrpcStatus(stub_->ReleaseJob(&call.context, request, &response));
      absl::MutexLock lock(&mutex_);
      if (status.ok() || MeansLost(status)) ended_ = true;
    }
    if (status.ok() || MeansLost(status) || absl::IsInvalidArgument(status)) return status;
    if (!scope.SleepFor(backoff.Next())) return status;
  }
}

}  // namespace quantd
