// Thin: the shapes are in unary.h and event_stream.h, the meaning is the queue's.
#include "server/services/job_service.h"

#include "absl/strings/str_cat.h"
#include "base/trace.h"
#include "proto/errors.h"
#include "server/services/event_stream.h"
#include "server/services/unary.h"

namespace quantd {
namespace {

constexpr char kService[] = "quantd.v1.JobService";
// Events a page: with ordinary log lines some tens of kilobytes for each subscriber.
constexpr int64_t kPageEvents = 200;

class JobEvents : public EventSource<v1::JobEvent> {
 public:
  JobEvents(Queue* queue, v1::WatchJobRequest request)
      : queue_(queue), request_(std::move(request)), trace_id_(TraceId(request_.name())) {}

  const std::string& key() const override { return request_.name(); }

  absl::StatusOr<Page> Read() override {
    QD_ASSIGN_OR_RETURN(EventPage page, queue_->ReadEvents(request_, kPageEvents));
    request_.set_after_sequence(page.next_sequence);
    for (v1::JobEvent& event : page.events) event.set_trace_id(trace_id_);
    return Page{std::move(page.events), page.at_end, page.finished};
  }

  v1::JobEvent KeepAlive(bool draining) const override {
    v1::JobEvent event;
    event.set_job(request_.name());
    event.mutable_keep_alive()->set_draining(draining);
    event.mutable_keep_alive()->set_resume_after_sequence(request_.after_sequence());
    return event;
  }

  absl::Status WithResumePlace(absl::Status status, const v1::JobEvent* unsent) const override {
    const int64_t sequence = unsent != nullptr && unsent->sequence() > 0
                                 ? unsent->sequence() - 1
                                 : request_.after_sequence();
    return WithReason(status, ReasonOf(status), {{"after_sequence", absl::StrCat(sequence)}});
  }

 private:
  Queue* const queue_;
  v1::WatchJobRequest request_;  // after_sequence is the cursor.
  const std::string trace_id_;
};

}  // namespace

grpc::ServerUnaryReactor* JobServiceImpl::SubmitJob(grpc::CallbackServerContext* rpc,
                                                    const v1::SubmitJobRequest* request,
                                                    v1::SubmitJobResponse* response) {
  return ServeSubmit<v1::SubmitJobRequest, v1::SubmitJobResponse>(
      Call(context_, rpc, kService, "SubmitJob", *request), &Queue::SubmitJob, request, response,
      ResolveJobSpec);
}

grpc::ServerUnaryReactor* JobServiceImpl::GetJob(grpc::CallbackServerContext* rpc,
                                                 const v1::GetJobRequest* request,
                                                 v1::Job* response) {
  return ServeRead(Call(context_, rpc, kService, "GetJob", *request), context_->reads, response,
                   [this, request] { return context_->queue->GetJob(*request, context_->now()); });
}

grpc::ServerUnaryReactor* JobServiceImpl::ListJobs(grpc::CallbackServerContext* rpc,
                                                   const v1::ListJobsRequest* request,
                                                   v1::ListJobsResponse* response) {
  return ServeList(Call(context_, rpc, kService, "ListJobs", *request), request, response,
                   [this](const v1::ListJobsRequest& inner) {
                     return context_->queue->ListJobs(inner, context_->now());
                   });
}

grpc::ServerWriteReactor<v1::JobEvent>* JobServiceImpl::WatchJob(
    grpc::CallbackServerContext* rpc, const v1::WatchJobRequest* request) {
  return EventStream<v1::JobEvent>::Start(
      context_, rpc, BeginCall(*context_, *rpc, kService, "WatchJob", request), request->snapshot(),
      std::make_unique<JobEvents>(context_->queue, *request));
}

grpc::ServerUnaryReactor* JobServiceImpl::CancelJob(grpc::CallbackServerContext* rpc,
                                                    const v1::CancelJobRequest* request,
                                                    v1::Job* response) {
  return ServeWrite<v1::CancelJobRequest, v1::Job>(
      Call(context_, rpc, kService, "CancelJob", *request), &Queue::CancelJob, request, response);
}

grpc::ServerUnaryReactor* JobServiceImpl::RetryJob(grpc::CallbackServerContext* rpc,
                                                   const v1::RetryJobRequest* request,
                                                   v1::Job* response) {
  return ServeWrite<v1::RetryJobRequest, v1::Job>(
      Call(context_, rpc, kService, "RetryJob", *request), &Queue::RetryJob, request, response);
}

}  // namespace quantd
