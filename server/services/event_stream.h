// A watch: pulls pages of events from the durable log when its client is ready for them, and writes
// them one at a time. There is no queue per subscriber, so a slow one costs one page, and a resumed
// one misses nothing. It ends with the log, with the server (a draining keep-alive, then
// UNAVAILABLE), or with RESOURCE_EXHAUSTED and a resume token when nobody reads.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "proto/errors.h"
#include "server/services/context.h"

namespace quantd {

// What is watched: a cursor over one log. Used by one thread at a time.
template <typename Event>
class EventSource {
 public:
  struct Page {
    std::vector<Event> events;
    bool at_end = true;     // Nothing more for now.
    bool finished = false;  // Nothing more ever.
  };
  virtual ~EventSource() = default;
  // The key under which the hub announces news.
  virtual const std::string& key() const = 0;
  // The next page; moves the cursor. Blocks on the database.
  virtual absl::StatusOr<Page> Read() = 0;
  virtual Event KeepAlive(bool draining) const = 0;
  // `status` with the place to go on from in its ErrorInfo.
  virtual absl::Status WithResumePlace(absl::Status status, const Event* unsent) const = 0;
};

template <typename Event>
class EventStream final : public grpc::ServerWriteReactor<Event>,
                          public Listener,
                          public std::enable_shared_from_this<EventStream<Event>> {
 public:
  // The reactor of a new call; it owns itself until the call is done. `snapshot`: ends at the log's
  // present end.
  static grpc::ServerWriteReactor<Event>* Start(const ServiceContext* context,
                                                grpc::CallbackServerContext* rpc, CallRecord record,
                                                bool snapshot,
                                                std::unique_ptr<EventSource<Event>> source) {
    const auto refuse = [&](const absl::Status& why) {
      EndCall(*context, record, why);
      return new RefusedStream<grpc::ServerWriteReactor<Event>>(why);
    };
    if (!record.admitted.ok()) return refuse(record.admitted);
    std::shared_ptr<EventStream> stream(
        new EventStream(context, rpc, record, snapshot, std::move(source)));
    if (!context->hub->Add(stream->source_->key(), stream)) return refuse(OverloadedError());
    stream->self_ = stream;
    stream->Wake();
    return stream.get();
  }

  void Wake() override {
    absl::MutexLock lock(&mutex_);
    news_ = true;
    Pump();
  }

  void Tick(absl::Duration now) override {
    absl::MutexLock lock(&mutex_);
    const absl::Duration quiet = now - last_write_;
    // A token may end while its watch goes on.
    if (const absl::Status still =
            context_->guard->Recheck(record_.admission.identity, context_->now());
        !still.ok()) {
      End(still);
    }
    if (writing_ && !reset_ && quiet > context_->times.reset) {
      reset_ = true;
      rpc_->TryCancel();
    } else if (writing_ && !ended_ && quiet > context_->times.stalled) {
      context_->metrics->StreamDropped();
      End(source_->WithResumePlace(
          WithReason(
              absl::ResourceExhaustedError(absl::StrCat(
                  "nobody read this stream for ", absl::FormatDuration(context_->times.stalled),
                  "; watch again from the place that the details name")),
              kReasonSlowConsumer),
          &outgoing_));
    } else if (!writing_ && !reading_ && !ended_ && next_ >= page_.events.size() &&
               quiet > context_->times.keep_alive) {
      Write(source_->KeepAlive(/*draining=*/false));
    }
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    last_write_ = Clock::Real().Monotonic();
    if (!ok) End(absl::CancelledError("the subscriber has gone"));
    Pump();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    End(absl::CancelledError("the subscriber has gone"));
  }

  void OnDone() override {
    context_->hub->Remove(source_->key(), this);
    const std::shared_ptr<EventStream> last = std::move(self_);
  }

 private:
  EventStream(const ServiceContext* context, grpc::CallbackServerContext* rpc, CallRecord record,
              bool snapshot, std::unique_ptr<EventSource<Event>> source)
      : context_(context),
        rpc_(rpc),
        record_(std::move(record)),
        snapshot_(snapshot),
        source_(std::move(source)),
        last_write_(record_.start) {}

  // Does the next thing there is to do, if nothing is under way.
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_ || writing_ || reading_) return;
    if (next_ < page_.events.size()) return Write(std::move(page_.events[next_++]));
    if (page_.finished || (snapshot_ && started_ && page_.at_end)) return End(absl::OkStatus());
    if (context_->hub->draining()) {
      if (!said_draining_) {
        said_draining_ = true;
        return Write(source_->KeepAlive(/*draining=*/true));
      }
      return End(source_->WithResumePlace(DrainingError(), nullptr));
    }
    if (!news_ && page_.at_end) return;
    news_ = false;
    reading_ = true;
    context_->pages->PostAlways([self = this->shared_from_this()] { self->Read(); });
  }

  void Read() {
    auto page = source_->Read();  // Alone: reading_ is set.
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    started_ = true;
    next_ = 0;
    if (page.ok()) {
      page_ = *std::move(page);
    } else {
      page_ = {};
      End(page.status());
    }
    Pump();
  }

  void Write(Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    outgoing_ = std::move(event);
    writing_ = true;
    last_write_ = Clock::Real().Monotonic();
    FaultPoint("stream/event");
    this->StartWrite(&outgoing_);
  }

  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return;
    ended_ = true;
    page_ = {};
    EndCall(*context_, record_, status);
    this->Finish(ToGrpcStatus(status));
  }

  const ServiceContext* const context_;
  grpc::CallbackServerContext* const rpc_;
  const CallRecord record_;
  const bool snapshot_;
  const std::unique_ptr<EventSource<Event>> source_;
  std::shared_ptr<EventStream> self_;  // Until OnDone.

  absl::Mutex mutex_;
  typename EventSource<Event>::Page page_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  Event outgoing_ ABSL_GUARDED_BY(mutex_);  // Lives until OnWriteDone.
  bool news_ ABSL_GUARDED_BY(mutex_) = false;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool reset_ ABSL_GUARDED_BY(mutex_) = false;
  bool said_draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration last_write_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd
