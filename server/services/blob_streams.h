// The two streaming calls of ArtifactService as state machines: read a chunk, store it, read the
// next; load a chunk, write it, load the next. Never more than one chunk a call in memory.
#pragma once

#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "server/services/context.h"

namespace quantd {

grpc::ServerReadReactor<v1::UploadBlobRequest>* StartUploadStream(const ServiceContext* context,
                                                                  grpc::CallbackServerContext* rpc,
                                                                  v1::UploadBlobResponse* response);
grpc::ServerWriteReactor<v1::DownloadBlobResponse>* StartDownloadStream(
    const ServiceContext* context, grpc::CallbackServerContext* rpc,
    const v1::DownloadBlobRequest* request);

}  // namespace quantd
