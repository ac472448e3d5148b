// One question to the queue at a time; news that come meanwhile lead to another one.
#include "server/services/lease_poll.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "proto/errors.h"
#include "proto/names.h"

namespace quantd {
namespace {

constexpr char kService[] = "quantd.v1.WorkerService";
// An answer needs this long to reach the caller before its deadline.
constexpr absl::Duration kDeadlineMargin = absl::Milliseconds(500);

absl::Duration WaitOf(const ServiceContext& context, grpc::CallbackServerContext* rpc,
                      const v1::LeaseJobRequest& request) {
  const absl::Duration asked =
      absl::Seconds(request.wait().seconds()) + absl::Nanoseconds(request.wait().nanos());
  // A call without a deadline has one in the far future.
  const absl::Duration left = absl::FromChrono(rpc->deadline()) - absl::Now() - kDeadlineMargin;
  return std::clamp(std::min(asked, left), absl::ZeroDuration(), context.times.long_poll_max);
}

// The queue wait is told once, at the first attempt.
void RecordStart(const ServiceContext* context, const v1::Lease& lease) {
  LogInfo("lease granted", {{"job", lease.job()},
                            {"worker", lease.worker()},
                            {"attempt", lease.attempt()},
                            {"fencing_token", lease.fencing_token()}});
  if (lease.attempt() != 1) return;
  context->reads->PostAlways([context, name = lease.job()] {
    v1::GetJobRequest request;
    request.set_name(name);
    const auto job = context->queue->GetJob(request, context->now());
    if (!job.ok()) return;
    context->metrics->JobStarted(KindLabel(job->spec()),
                                 Between(job->create_time(), job->start_time()));
  });
}

}  // namespace

LeasePoll::LeasePoll(const ServiceContext* context, CallRecord record,
                     const v1::LeaseJobRequest* request, v1::LeaseJobResponse* response,
                     absl::Duration wait)
    : context_(context),
      request_(*request),
      response_(response),
      record_(std::move(record)),
      end_(record_.start + wait) {}

grpc::ServerUnaryReactor* LeasePoll::Start(const ServiceContext* context,
                                           grpc::CallbackServerContext* rpc,
                                           const v1::LeaseJobRequest* request,
                                           v1::LeaseJobResponse* response) {
  CallRecord record = BeginCall(*context, *rpc, kService, "LeaseJob", request);
  const auto refuse = [&](const absl::Status& why) {
    EndCall(*context, record, why);
    return new RefusedStream<grpc::ServerUnaryReactor>(why);
  };
  if (!record.admitted.ok()) return refuse(record.admitted);
  std::shared_ptr<LeasePoll> poll(
      new LeasePoll(context, record, request, response, WaitOf(*context, rpc, *request)));
  // Before the first question, so that no news are missed between it and the wait.
  if (!context->hub->Add(Hub::kRunnable, poll)) return refuse(OverloadedError());
  poll->self_ = poll;
  poll->Wake();
  return poll.get();
}

void LeasePoll::Wake() {
  {
    absl::MutexLock lock(&mutex_);
    if (!StartAsking()) return;
  }
  Ask();
}

bool LeasePoll::StartAsking() {
  if (ended_) return false;
  news_ = asking_;
  if (asking_) return false;
  if (context_->hub->draining()) {
    End(DrainingError());
    return false;
  }
  asking_ = true;
  return true;
}

void LeasePoll::Tick(absl::Duration now) {
  absl::MutexLock lock(&mutex_);
  if (!asking_ && now >= end_) End(absl::OkStatus());
}

void LeasePoll::Ask() {
  context_->queue->LeaseJob(
      request_, context_->now(),
      [self = shared_from_this()](absl::StatusOr<v1::LeaseJobResponse> result) {
        self->Answered(std::move(result));
      });
}

void LeasePoll::Answered(absl::StatusOr<v1::LeaseJobResponse> result) {
  {
    absl::MutexLock lock(&mutex_);
    asking_ = false;
    // A lease given to a caller that has gone is given again at the worker's next poll.
    if (ended_) return;
    if (!result.ok()) return End(result.status());
    if (result->has_lease()) {
      RecordStart(context_, result->lease());
      if (result->spec().secrets_size() > 0) {
        asking_ = true;  // Nothing else is asked meanwhile.
        return context_->reads->PostAlways(
            [self = shared_from_this(), lease = *std::move(result)] { self->OpenSecrets(lease); });
      }
      *response_ = *std::move(result);
      return End(absl::OkStatus());
    }
    if (Clock::Real().Monotonic() >= end_) return End(absl::OkStatus());
    if (!context_->hub->draining() && !news_) return;
    if (!StartAsking()) return;
  }
  Ask();
}

void LeasePoll::OpenSecrets(v1::LeaseJobResponse lease) {
  const auto job = ParseJobName(lease.lease().job());
  const std::vector<std::string> ids(lease.spec().secrets().begin(), lease.spec().secrets().end());
  const auto values = context_->secrets->Open(job.ok() ? job->tenant : "", ids);
  if (values.ok()) {
    lease.mutable_secrets()->insert(values->begin(), values->end());
  } else {
    // The job starts without them, and says itself what it could not do.
    LogWarning("a job's secrets are not to be had",
               {{"job", lease.lease().job()}, {"error", values.status().ToString()}});
  }
  absl::MutexLock lock(&mutex_);
  if (ended_) return;
  *response_ = std::move(lease);
  End(absl::OkStatus());
}

void LeasePoll::OnCancel() {
  absl::MutexLock lock(&mutex_);
  End(absl::CancelledError("the worker has gone"));
}

void LeasePoll::OnDone() {
  context_->hub->Remove(Hub::kRunnable, this);
  const std::shared_ptr<LeasePoll> last = std::move(self_);
}

void LeasePoll::End(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  EndCall(*context_, record_, status);
  Finish(ToGrpcStatus(status));
}

}  // namespace quantd
