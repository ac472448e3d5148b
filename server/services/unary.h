// The three shapes of unary handlers: a blocking read on the pool, a write through the queue's
// asynchronous form, and a submit, which resolves the spec first.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/errors.h"
#include "server/artifacts/secret.h"
#include "server/services/context.h"
#include "server/validation/credential_check.h"
#include "server/validation/spec_validation.h"

namespace quantd {

// `read`: () -> StatusOr<Response>, run on the pool.
template <typename Response, typename Read>
grpc::ServerUnaryReactor* ServeRead(const Call& call, WorkPool* pool, Response* response,
                                    Read read) {
  call.Post(pool,
            [call, response, read = std::move(read)] { call.Answer<Response>(read(), response); });
  return call.reactor();
}

// A list: page tokens are sealed outside and bare inside.
template <typename Request, typename Response, typename List>
grpc::ServerUnaryReactor* ServeList(const Call& call, const Request* request, Response* response,
                                    List list) {
  return ServeRead(call, call.context().reads, response,
                   [call, request, list]() -> absl::StatusOr<Response> {
                     const std::string& secret = call.context().secret;
                     Request inner = *request;
                     QD_ASSIGN_OR_RETURN(*inner.mutable_page_token(),
                                         OpenToken(secret, request->page_token(), "page_token"));
                     QD_ASSIGN_OR_RETURN(Response listed, list(inner));
                     listed.set_next_page_token(SealToken(secret, listed.next_page_token()));
                     return listed;
                   });
}

// One of Queue's asynchronous writes.
template <typename Request, typename Response>
using QueueWrite = void (Queue::*)(Request, absl::Time, Queue::Done<Response>);

template <typename Request, typename Response>
grpc::ServerUnaryReactor* ServeWrite(const Call& call, QueueWrite<Request, Response> write,
                                     const Request* request, Response* response) {
  if (call.refused()) return call.reactor();
  (call.context().queue->*write)(*request, call.context().now(),
                                 [call, response](absl::StatusOr<Response> result) {
                                   call.Answer(std::move(result), response);
                                 });
  return call.reactor();
}

// The spec that an earlier submit stored.
inline absl::StatusOr<v1::JobSpec> StoredSpec(const ServiceContext& context,
                                              const std::string& name,
                                              v1::SubmitJobResponse* response) {
  v1::GetJobRequest request;
  request.set_name(name);
  QD_ASSIGN_OR_RETURN(*response->mutable_job(), context.queue->GetJob(request, context.now()));
  return response->job().spec();
}
inline absl::StatusOr<v1::SweepSpec> StoredSpec(const ServiceContext& context,
                                                const std::string& name,
                                                v1::SubmitSweepResponse* response) {
  v1::GetSweepRequest request;
  request.set_name(name);
  QD_ASSIGN_OR_RETURN(*response->mutable_sweep(), context.queue->GetSweep(request));
  return response->sweep().spec();
}

// The queue compares resolved specs. The same request may have been resolved differently before (a
// worker has come since): then what was stored, resolved now, equals it, and it is no other
// request.
template <typename Response, typename Spec, typename Resolve>
absl::StatusOr<Response> AnswerReplay(const Call& call, const absl::Status& reused,
                                      const Spec& spec, Resolve resolve) {
  Response response;
  auto stored = StoredSpec(call.context(), ReasonMetadata(reused, "resource"), &response);
  const auto catalog = call.context().catalog->Get();
  if (!stored.ok() || !catalog.ok()) return reused;
  SpecFindings ignored;
  resolve(**catalog, &*stored, &ignored);
  if (!google::protobuf::util::MessageDifferencer::Equals(*stored, spec)) return reused;
  return response;
}

// What a spec names as a secret has to be one of its tenant's.
void CheckSecrets(const ServiceContext& context, const std::string& parent,
                  const google::protobuf::RepeatedPtrField<std::string>& secrets,
                  SpecFindings* findings);

// `resolve`: ResolveJobSpec or ResolveSweepSpec.
template <typename Request, typename Response, typename Resolve>
grpc::ServerUnaryReactor* ServeSubmit(const Call& call, QueueWrite<Request, Response> write,
                                      const Request* request, Response* response, Resolve resolve) {
  if (call.refused()) return call.reactor();
  if (call.context().hub->draining()) {
    call.Finish(DrainingError());
    return call.reactor();
  }
  call.Post(call.context().reads, [call, write, request, response, resolve] {
    const auto catalog = call.context().catalog->Get();
    if (!catalog.ok()) return call.Finish(catalog.status());
    Request resolved = *request;
    SpecFindings findings;
    resolve(**catalog, resolved.mutable_spec(), &findings);
    RefuseCredentials(resolved.spec(), "spec", &findings.violations);
    CheckSecrets(call.context(), resolved.parent(), resolved.spec().secrets(), &findings);
    if (!findings.violations.empty()) return call.Finish(FieldErrors(findings.violations));
    const auto spec =
        std::make_shared<const std::decay_t<decltype(resolved.spec())>>(resolved.spec());
    const auto done = [call, response, resolve, spec,
                       warnings = std::move(findings.warnings)](absl::StatusOr<Response> result) {
      if (ReasonOf(result.status()) == kReasonRequestIdReused) {
        return call.Post(
            call.context().reads, [call, response, resolve, spec, reused = result.status()] {
              call.Answer(AnswerReplay<Response>(call, reused, *spec, resolve), response);
            });
      }
      if (result.ok()) {
        for (const std::string& warning : warnings) result->add_warnings(warning);
      }
      call.Answer(std::move(result), response);
    };
    (call.context().queue->*write)(std::move(resolved), call.context().now(), done);
  });
  return call.reactor();
}

}  // namespace quantd
