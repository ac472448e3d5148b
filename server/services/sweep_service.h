// SweepService over the queue, which plans the jobs of a sweep.
#pragma once

#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "server/services/context.h"

namespace quantd {

class SweepServiceImpl final : public v1::SweepService::CallbackService {
 public:
  explicit SweepServiceImpl(const ServiceContext* context) : context_(context) {}

  grpc::ServerUnaryReactor* SubmitSweep(grpc::CallbackServerContext* rpc,
                                        const v1::SubmitSweepRequest* request,
                                        v1::SubmitSweepResponse* response) override;
  grpc::ServerUnaryReactor* GetSweep(grpc::CallbackServerContext* rpc,
                                     const v1::GetSweepRequest* request,
                                     v1::Sweep* response) override;
  grpc::ServerUnaryReactor* ListSweeps(grpc::CallbackServerContext* rpc,
                                       const v1::ListSweepsRequest* request,
                                       v1::ListSweepsResponse* response) override;
  grpc::ServerWriteReactor<v1::SweepEvent>* WatchSweep(
      grpc::CallbackServerContext* rpc, const v1::WatchSweepRequest* request) override;
  grpc::ServerUnaryReactor* CancelSweep(grpc::CallbackServerContext* rpc,
                                        const v1::CancelSweepRequest* request,
                                        v1::Sweep* response) override;
  grpc::ServerUnaryReactor* RetrySweep(grpc::CallbackServerContext* rpc,
                                       const v1::RetrySweepRequest* request,
                                       v1::Sweep* response) override;

 private:
  const ServiceContext* const context_;
};

}  // namespace quantd
