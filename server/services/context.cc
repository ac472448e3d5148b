// See context.h.
#include "server/services/context.h"

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/channel.h"
#include "proto/errors.h"

namespace quantd {
namespace {
// A restart takes about this long.
constexpr absl::Duration kDrainingRetry = absl::Seconds(5);
constexpr absl::Duration kOverloadedRetry = absl::Seconds(1);
}  // namespace

absl::Status DrainingError() {
  return WithRetryAfter(
      WithReason(absl::UnavailableError("the scheduler is stopping; try again soon"),
                 kReasonDraining),
      kDrainingRetry);
}

absl::Status OverloadedError() {
  return WithRetryAfter(
      absl::UnavailableError("the scheduler has too many calls waiting; try again"),
      kOverloadedRetry);
}

Call::Call(const ServiceContext* context, grpc::CallbackServerContext* rpc, const char* service,
           const char* method)
    : context_(context),
      rpc_(rpc),
      reactor_(rpc->DefaultReactor()),
      service_(service),
      method_(method),
      start_(Clock::Real().Monotonic()) {
  rpc_->AddInitialMetadata(kVersionMetadata, QUANTD_VERSION);
}

void Call::Finish(const absl::Status& status) const {
  RecordCall(*context_, service_, method_, status, start_);
  reactor_->Finish(ToGrpcStatus(status));
}

void Call::Post(WorkPool* pool, std::function<void()> work) const {
  const Call call = *this;
  const bool posted = pool->Post([call, work = std::move(work)] {
    if (call.Abandoned()) {
      call.Finish(absl::CancelledError("the caller has gone"));
    } else {
      work();
    }
  });
  if (!posted) Finish(OverloadedError());
}

std::string KindLabel(const v1::JobSpec& spec) {
  const auto* oneof = v1::JobSpec::descriptor()->FindOneofByName("kind");
  const auto* field = spec.GetReflection()->GetOneofFieldDescriptor(spec, oneof);
  return field == nullptr ? "none" : field->name();
}

absl::Duration Between(const google::protobuf::Timestamp& from,
                       const google::protobuf::Timestamp& to) {
  return absl::Seconds(to.seconds() - from.seconds()) +
         absl::Nanoseconds(to.nanos() - from.nanos());
}

void RecordCall(const ServiceContext& context, const char* service, const char* method,
                const absl::Status& status, absl::Duration start) {
  context.metrics->CallHandled(service, method, static_cast<int>(status.code()),
                               Clock::Real().Monotonic() - start);
  if (status.code() == absl::StatusCode::kInternal ||
      status.code() == absl::StatusCode::kDataLoss || status.code() == absl::StatusCode::kUnknown) {
    LogError("call failed",
             {{"service", service}, {"method", method}, {"error", status.ToString()}});
  }
}

}  // namespace quantd
