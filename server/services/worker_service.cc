// Thin but for outputs: a manifest names files that other machines will write, so its paths and
// blobs are checked before the queue may believe it.
#include "server/services/worker_service.h"

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/names.h"
#include "server/services/artifact_service.h"
#include "server/services/lease_poll.h"
#include "server/services/unary.h"

namespace quantd {
namespace {

constexpr char kService[] = "quantd.v1.WorkerService";
constexpr char kCatalogService[] = "quantd.v1.CatalogService";

template <typename Request>
absl::Status CheckEvents(const ServiceContext& context, Request* request) {
  for (v1::JobEvent& event : *request->mutable_events()) {
    if (event.has_checkpoint() && event.checkpoint().has_manifest()) {
      QD_RETURN_IF_ERROR(CheckFiles(context, event.mutable_checkpoint()->mutable_manifest()),
                         "checkpoint of ", request->lease().job());
    }
  }
  return absl::OkStatus();
}

bool HasCheckpoint(const v1::ReportJobRequest& request) {
  for (const v1::JobEvent& event : request.events()) {
    if (event.has_checkpoint()) return true;
  }
  return false;
}

absl::Status NameOutput(const ServiceContext& context, const v1::Artifact& output) {
  QD_RETURN_IF_ERROR(context.artifacts->PutArtifact(output), "naming ", output.name());
  context.queue->OutputNamed(output.name());
  return absl::OkStatus();
}

// After the outcome is accepted: the output gets a name of its own, and the books are kept.
absl::Status Conclude(const ServiceContext& context, const v1::CompleteJobRequest& request,
                      v1::JobState state) {
  LogInfo("attempt ended", {{"job", request.lease().job()},
                            {"worker", request.lease().worker()},
                            {"attempt", request.lease().attempt()},
                            {"state", v1::JobState_Name(state)}});
  v1::GetJobRequest get;
  get.set_name(request.lease().job());
  const auto job = context.queue->GetJob(get, context.now());
  if (job.ok() && job->has_end_time()) {
    context.metrics->JobEnded(KindLabel(job->spec()), Between(job->start_time(), job->end_time()));
  }
  if (state != v1::JOB_STATE_SUCCEEDED || request.success().output().files().empty())
    return absl::OkStatus();
  QD_ASSIGN_OR_RETURN(const TenantResource name, ParseJobName(request.lease().job()));
  v1::Artifact artifact;
  artifact.set_name(ArtifactName({name.tenant, request.success().output().sha256()}));
  artifact.set_job(request.lease().job());
  *artifact.mutable_manifest() = request.success().output();
  return NameOutput(context, artifact);
}

}  // namespace

absl::Status NameOutputs(const ServiceContext& context) {
  QD_ASSIGN_OR_RETURN(const auto outputs, context.queue->UnnamedOutputs());
  for (const v1::Artifact& output : outputs) {
    if (output.manifest().files().empty()) {
      context.queue->OutputNamed(output.name());
    } else {
      QD_RETURN_IF_ERROR(NameOutput(context, output));
    }
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* WorkerServiceImpl::RegisterWorker(
    grpc::CallbackServerContext* rpc, const v1::RegisterWorkerRequest* request,
    v1::RegisterWorkerResponse* response) {
  const Call call(context_, rpc, kService, "RegisterWorker", *request);
  if (call.refused()) return call.reactor();
  if (const auto name = ParseWorkerName(request->worker().name()); !name.ok()) {
    call.Finish(FieldError("worker.name", name.status().message()));
    return call.reactor();
  }
  context_->queue->RegisterWorker(
      *request, context_->now(),
      [call, request, response](absl::StatusOr<v1::RegisterWorkerResponse> result) {
        if (result.ok()) {
          call.context().catalog->Invalidate();
          LogInfo("worker registered", {{"worker", request->worker().name()},
                                        {"hostname", request->worker().hostname()},
                                        {"version", request->worker().version()}});
        }
        call.Answer(std::move(result), response);
      });
  return call.reactor();
}

grpc::ServerUnaryReactor* WorkerServiceImpl::LeaseJob(grpc::CallbackServerContext* rpc,
                                                      const v1::LeaseJobRequest* request,
                                                      v1::LeaseJobResponse* response) {
  return LeasePoll::Start(context_, rpc, request, response);
}

grpc::ServerUnaryReactor* WorkerServiceImpl::ReportJob(grpc::CallbackServerContext* rpc,
                                                       const v1::ReportJobRequest* request,
                                                       v1::ReportJobResponse* response) {
  const Call call(context_, rpc, kService, "ReportJob", *request);
  if (call.refused()) return call.reactor();
  if (!HasCheckpoint(*request)) {
    return ServeWrite<v1::ReportJobRequest, v1::ReportJobResponse>(call, &Queue::ReportJob, request,
                                                                   response);
  }
  call.Post(context_->disk, [call, request, response] {
    v1::ReportJobRequest checked = *request;
    if (const absl::Status events = CheckEvents(call.context(), &checked); !events.ok()) {
      return call.Finish(events);
    }
    call.context().queue->ReportJob(std::move(checked), call.context().now(),
                                    [call, response](absl::StatusOr<v1::ReportJobResponse> result) {
                                      call.Answer(std::move(result), response);
                                    });
  });
  return call.reactor();
}

grpc::ServerUnaryReactor* WorkerServiceImpl::CompleteJob(grpc::CallbackServerContext* rpc,
                                                         const v1::CompleteJobRequest* request,
                                                         v1::CompleteJobResponse* response) {
  const Call call(context_, rpc, kService, "CompleteJob", *request);
  if (call.refused()) return call.reactor();
  call.Post(context_->disk, [call, request, response] {
    const auto checked = std::make_shared<v1::CompleteJobRequest>(*request);
    absl::Status files = CheckEvents(call.context(), checked.get());
    if (files.ok() && checked->has_success() && checked->success().has_output()) {
      files = Annotate(CheckFiles(call.context(), checked->mutable_success()->mutable_output()),
                       absl::StrCat("output of ", request->lease().job()));
    }
    if (!files.ok()) return call.Finish(files);
    FaultPoint("complete/checked");
    call.context().queue->CompleteJob(
        *checked, call.context().now(),
        [call, checked, response](absl::StatusOr<v1::CompleteJobResponse> result) {
          if (!result.ok()) return call.Finish(result.status());
          *response = *std::move(result);
          // Reads and files: not on the store's thread. A worker that gets an error here sends the
          // same outcome again, and this is done again.
          call.context().disk->PostAlways([call, checked, response] {
            FaultPoint("complete/accepted");
            const absl::Status concluded = Conclude(call.context(), *checked, response->state());
            FaultPoint("complete/published");
            call.Finish(concluded);
          });
        });
  });
  return call.reactor();
}

grpc::ServerUnaryReactor* WorkerServiceImpl::FindResult(grpc::CallbackServerContext* rpc,
                                                        const v1::FindResultRequest* request,
                                                        v1::FindResultResponse* response) {
  return ServeRead(
      Call(context_, rpc, kService, "FindResult", *request), context_->disk, response,
      [this, request]() -> absl::StatusOr<v1::FindResultResponse> {
        QD_ASSIGN_OR_RETURN(auto found, context_->queue->FindResult(*request, context_->now()));
        if (!found.success().has_output()) return found;
        const absl::Status files = CheckFiles(*context_, found.mutable_success()->mutable_output());
        if (!files.ok()) return absl::NotFoundError(files.message());
        return found;
      });
}

grpc::ServerUnaryReactor* WorkerServiceImpl::ReleaseJob(grpc::CallbackServerContext* rpc,
                                                        const v1::ReleaseJobRequest* request,
                                                        v1::ReleaseJobResponse* response) {
  const Call call(context_, rpc, kService, "ReleaseJob", *request);
  if (call.refused()) return call.reactor();
  LogInfo("job given back", {{"job", request->lease().job()},
                             {"worker", request->lease().worker()},
                             {"reason", request->reason().substr(0, 200)}});
  return ServeWrite<v1::ReleaseJobRequest, v1::ReleaseJobResponse>(call, &Queue::ReleaseJob,
                                                                   request, response);
}

grpc::ServerUnaryReactor* WorkerServiceImpl::DeregisterWorker(
    grpc::CallbackServerContext* rpc, const v1::DeregisterWorkerRequest* request,
    v1::DeregisterWorkerResponse* response) {
  const Call call(context_, rpc, kService, "DeregisterWorker", *request);
  if (call.refused()) return call.reactor();
  context_->catalog->Invalidate();
  LogInfo("worker leaves", {{"worker", request->worker().substr(0, 200)}});
  return ServeWrite<v1::DeregisterWorkerRequest, v1::DeregisterWorkerResponse>(
      call, &Queue::DeregisterWorker, request, response);
}

grpc::ServerUnaryReactor* CatalogServiceImpl::ListWorkers(grpc::CallbackServerContext* rpc,
                                                          const v1::ListWorkersRequest* request,
                                                          v1::ListWorkersResponse* response) {
  const Call call(context_, rpc, kCatalogService, "ListWorkers", *request);
  return ServeList(
      call, request, response,
      [call](const v1::ListWorkersRequest& inner) -> absl::StatusOr<v1::ListWorkersResponse> {
        QD_ASSIGN_OR_RETURN(v1::ListWorkersResponse listed,
                            call.context().queue->ListWorkers(inner, call.context().now()));
        // Workers serve every tenant, but what they work on is its tenant's business.
        for (v1::Worker& worker : *listed.mutable_workers()) {
          const auto job = ParseJobName(worker.job());
          if (job.ok() && !call.identity().MayUseTenant(job->tenant)) worker.clear_job();
        }
        return listed;
      });
}

grpc::ServerUnaryReactor* CatalogServiceImpl::GetCatalog(grpc::CallbackServerContext* rpc,
                                                         const v1::GetCatalogRequest* request,
                                                         v1::Catalog* response) {
  return ServeRead(Call(context_, rpc, kCatalogService, "GetCatalog", *request), context_->reads,
                   response, [this]() -> absl::StatusOr<v1::Catalog> {
                     QD_ASSIGN_OR_RETURN(const auto catalog, context_->catalog->Get());
                     return *catalog;
                   });
}

}  // namespace quantd
