// See context.h.
#include "server/services/context.h"

#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/fault_point.h"
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

CallRecord BeginCall(const ServiceContext& context, const grpc::CallbackServerContext& rpc,
                     const char* service, const char* method,
                     const google::protobuf::Message* request) {
  CallRecord record = {.service = service, .method = method, .start = Clock::Real().Monotonic()};
  const auto headers = rpc.client_metadata().equal_range("authorization");
  absl::string_view authorization;
  if (headers.first != headers.second) {
    authorization = absl::string_view(headers.first->second.data(), headers.first->second.size());
  }
  if (headers.first != headers.second && std::next(headers.first) != headers.second) {
    authorization = "several";  // Which of them is meant nobody can tell.
  }
  record.admitted = context.guard->Admit(authorization, service, method, request, context.now(),
                                         &record.admission);
  const MethodPolicy* policy = record.admission.policy;
  if (!record.admitted.ok() || (policy != nullptr && policy->audited)) record.peer = rpc.peer();
  return record;
}

void EndCall(const ServiceContext& context, const CallRecord& record, const absl::Status& status) {
  context.metrics->CallHandled(record.service, record.method, static_cast<int>(status.code()),
                               Clock::Real().Monotonic() - record.start);
  if (!record.peer.empty()) {
    const Identity& identity = record.admission.identity;
    context.audit->Write({.time = context.now(),
                          .caller = identity.name,
                          .role = identity.name.empty() ? "" : v1::Role_Name(identity.role),
                          .tenant = identity.tenant,
                          .peer = record.peer,
                          .method = absl::StrCat(record.service, "/", record.method),
                          .resource = record.admission.resource,
                          .code = absl::StatusCodeToString(status.code()),
                          .message = status.message()});
  }
  if (status.code() == absl::StatusCode::kInternal ||
      status.code() == absl::StatusCode::kDataLoss || status.code() == absl::StatusCode::kUnknown) {
    LogError(
        "call failed",
        {{"service", record.service}, {"method", record.method}, {"error", status.ToString()}});
  }
}

Call::Call(const ServiceContext* context, grpc::CallbackServerContext* rpc, const char* service,
           const char* method, const google::protobuf::Message& request)
    : context_(context),
      rpc_(rpc),
      reactor_(rpc->DefaultReactor()),
      record_(std::make_shared<const CallRecord>(
          BeginCall(*context, *rpc, service, method, &request))) {
  rpc_->AddInitialMetadata(kVersionMetadata, QUANTD_VERSION);
  if (refused()) Finish(record_->admitted);
}

void Call::Finish(const absl::Status& status) const {
  EndCall(*context_, *record_, status);
  FaultPoint("reply");
  reactor_->Finish(ToGrpcStatus(status));
}

void Call::Post(WorkPool* pool, std::function<void()> work) const {
  if (refused()) return;
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

}  // namespace quantd
