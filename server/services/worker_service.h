// WorkerService over the queue: long polls that hold no thread, and outputs that are believed only
// when every blob is there. CatalogService beside it, which tells clients what the workers can do.
#pragma once

#include "proto/quantd/v1/worker.grpc.pb.h"
#include "server/services/context.h"

namespace quantd {

// Writes the manifests of accepted outcomes that have none: their scheduler died before it could,
// and maybe the worker, too, which would have sent the outcome again. Blocks on the disk.
absl::Status NameOutputs(const ServiceContext& context);

class WorkerServiceImpl final : public v1::WorkerService::CallbackService {
 public:
  explicit WorkerServiceImpl(const ServiceContext* context) : context_(context) {}

  grpc::ServerUnaryReactor* RegisterWorker(grpc::CallbackServerContext* rpc,
                                           const v1::RegisterWorkerRequest* request,
                                           v1::RegisterWorkerResponse* response) override;
  grpc::ServerUnaryReactor* LeaseJob(grpc::CallbackServerContext* rpc,
                                     const v1::LeaseJobRequest* request,
                                     v1::LeaseJobResponse* response) override;
  grpc::ServerUnaryReactor* ReportJob(grpc::CallbackServerContext* rpc,
                                      const v1::ReportJobRequest* request,
                                      v1::ReportJobResponse* response) override;
  grpc::ServerUnaryReactor* CompleteJob(grpc::CallbackServerContext* rpc,
                                        const v1::CompleteJobRequest* request,
                                        v1::CompleteJobResponse* response) override;
  grpc::ServerUnaryReactor* FindResult(grpc::CallbackServerContext* rpc,
                                       const v1::FindResultRequest* request,
                                       v1::FindResultResponse* response) override;
  grpc::ServerUnaryReactor* ReleaseJob(grpc::CallbackServerContext* rpc,
                                       const v1::ReleaseJobRequest* request,
                                       v1::ReleaseJobResponse* response) override;
  grpc::ServerUnaryReactor* DeregisterWorker(grpc::CallbackServerContext* rpc,
                                             const v1::DeregisterWorkerRequest* request,
                                             v1::DeregisterWorkerResponse* response) override;

 private:
  const ServiceContext* const context_;
};

class CatalogServiceImpl final : public v1::CatalogService::CallbackService {
 public:
  explicit CatalogServiceImpl(const ServiceContext* context) : context_(context) {}

  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* rpc,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;
  grpc::ServerUnaryReactor* GetCatalog(grpc::CallbackServerContext* rpc,
                                       const v1::GetCatalogRequest* request,
                                       v1::Catalog* response) override;

 private:
  const ServiceContext* const context_;
};

}  // namespace quantd
