// The three shapes of unary handlers: a blocking read on the pool, a write through the queue's
// asynchronous form, and a submit, which resolves the spec first.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "proto/errors.h"
#include "server/artifacts/secret.h"
#include "server/scheduler/resources.h"
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

// What a spec names as a secret has to be one of its tenant's.
void CheckSecrets(const ServiceContext& context, const std::string& parent,
                  const google::protobuf::RepeatedPtrField<std::string>& secrets,
                  SpecFindings* findings);

// `resolve`: ResolveJobSpec or ResolveSweepSpec.
template <typename Request, typename Response, typename Resolve>
grpc::ServerUnaryReactor* ServeSubmit(const Call& call,
                                      QueueWrite<Submission<Request>, Response> write,
                                      const Request* request, Response* response, Resolve resolve) {
  if (call.refused()) return call.reactor();
  if (call.context().hub->draining()) {
    call.Finish(DrainingError());
    return call.reactor();
  }
  call.Post(call.context().reads, [call, write, request, response, resolve] {
    const auto catalog = call.context().catalog->Get();
    if (!catalog.ok()) return call.Finish(catalog.status());
    Submission<Request> submission = *request;
    submission.sent_digest = RequestDigest(*request);
    Request& resolved = submission.request;
    SpecFindings findings;
    resolve(**catalog, resolved.mutable_spec(), &findings);
    RefuseCredentials(resolved.spec(), "spec", &findings.violations);
    CheckSecrets(call.context(), resolved.parent(), resolved.spec().secrets(), &findings);
    if (!findings.violations.empty()) {
      submission.refusal = FieldErrors(findings.violations);
      // What was taken when it was sent first is taken, whoever offered it then.
      if (request->request_id().empty()) return call.Finish(submission.refusal);
    }
    const auto done = [call, response,
                       warnings = std::move(findings.warnings)](absl::StatusOr<Response> result) {
      if (result.ok()) {
        for (const std::string& warning : warnings) result->add_warnings(warning);
      }
      call.Answer(std::move(result), response);
    };
    (call.context().queue->*write)(std::move(submission), call.context().now(), done);
  });
  return call.reactor();
}

}  // namespace quantd
