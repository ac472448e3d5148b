// Thin: the shapes are in unary.h and event_stream.h, the meaning is the queue's.
#include "server/services/sweep_service.h"

#include "base/trace.h"
#include "proto/errors.h"
#include "server/services/event_stream.h"
#include "server/services/unary.h"

namespace quantd {
namespace {

constexpr char kService[] = "quantd.v1.SweepService";
constexpr int64_t kPageEvents = 200;

class SweepEvents : public EventSource<v1::SweepEvent> {
 public:
  SweepEvents(Queue* queue, v1::WatchSweepRequest request)
      : queue_(queue), request_(std::move(request)) {}

  const std::string& key() const override { return request_.name(); }

  absl::StatusOr<Page> Read() override {
    QD_ASSIGN_OR_RETURN(SweepEventPage page, queue_->ReadSweepEvents(request_, kPageEvents));
    before_page_ = request_.resume_token();
    if (!page.next_token.empty()) request_.set_resume_token(page.next_token);
    for (v1::SweepEvent& event : page.events) {
      event.mutable_event()->set_trace_id(TraceId(event.event().job()));
    }
    return Page{std::move(page.events), page.at_end, page.finished};
  }

  v1::SweepEvent KeepAlive(bool draining) const override {
    v1::SweepEvent event;
    event.mutable_event()->mutable_keep_alive()->set_draining(draining);
    event.set_resume_token(request_.resume_token());
    return event;
  }

  // An event's own token stands for the place after it; the page's start may send some events
  // again, but never misses one, and each carries its sequence number.
  absl::Status WithResumePlace(absl::Status status, const v1::SweepEvent* unsent) const override {
    return WithReason(
        status, ReasonOf(status),
        {{"resume_token", unsent != nullptr ? before_page_ : request_.resume_token()}});
  }

 private:
  Queue* const queue_;
  v1::WatchSweepRequest request_;  // resume_token is the cursor.
  std::string before_page_;
};

}  // namespace

grpc::ServerUnaryReactor* SweepServiceImpl::SubmitSweep(grpc::CallbackServerContext* rpc,
                                                        const v1::SubmitSweepRequest* request,
                                                        v1::SubmitSweepResponse* response) {
  return ServeSubmit<v1::SubmitSweepRequest, v1::SubmitSweepResponse>(
      Call(context_, rpc, kService, "SubmitSweep", *request), &Queue::SubmitSweep, request,
      response, ResolveSweepSpec);
}

grpc::ServerUnaryReactor* SweepServiceImpl::GetSweep(grpc::CallbackServerContext* rpc,
                                                     const v1::GetSweepRequest* request,
                                                     v1::Sweep* response) {
  return ServeRead(Call(context_, rpc, kService, "GetSweep", *request), context_->reads, response,
                   [this, request] { return context_->queue->GetSweep(*request); });
}

grpc::ServerUnaryReactor* SweepServiceImpl::ListSweeps(grpc::CallbackServerContext* rpc,
                                                       const v1::ListSweepsRequest* request,
                                                       v1::ListSweepsResponse* response) {
  return ServeList(
      Call(context_, rpc, kService, "ListSweeps", *request), request, response,
      [this](const v1::ListSweepsRequest& inner) { return context_->queue->ListSweeps(inner); });
}

grpc::ServerWriteReactor<v1::SweepEvent>* SweepServiceImpl::WatchSweep(
    grpc::CallbackServerContext* rpc, const v1::WatchSweepRequest* request) {
  return EventStream<v1::SweepEvent>::Start(
      context_, rpc, BeginCall(*context_, *rpc, kService, "WatchSweep", request),
      /*snapshot=*/false, std::make_unique<SweepEvents>(context_->queue, *request));
}

grpc::ServerUnaryReactor* SweepServiceImpl::CancelSweep(grpc::CallbackServerContext* rpc,
                                                        const v1::CancelSweepRequest* request,
                                                        v1::Sweep* response) {
  return ServeWrite<v1::CancelSweepRequest, v1::Sweep>(
      Call(context_, rpc, kService, "CancelSweep", *request), &Queue::CancelSweep, request,
      response);
}

grpc::ServerUnaryReactor* SweepServiceImpl::RetrySweep(grpc::CallbackServerContext* rpc,
                                                       const v1::RetrySweepRequest* request,
                                                       v1::Sweep* response) {
  return ServeWrite<v1::RetrySweepRequest, v1::Sweep>(
      Call(context_, rpc, kService, "RetrySweep", *request), &Queue::RetrySweep, request, response);
}

}  // namespace quantd
