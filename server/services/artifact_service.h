// ArtifactService over the artifact store: blobs stream in and out in chunks, one in flight a call,
// on the disk pool.
#pragma once

#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "server/services/context.h"

namespace quantd {

class ArtifactServiceImpl final : public v1::ArtifactService::CallbackService {
 public:
  explicit ArtifactServiceImpl(const ServiceContext* context) : context_(context) {}

  grpc::ServerUnaryReactor* FindMissingBlobs(grpc::CallbackServerContext* rpc,
                                             const v1::FindMissingBlobsRequest* request,
                                             v1::FindMissingBlobsResponse* response) override;
  grpc::ServerUnaryReactor* StartUpload(grpc::CallbackServerContext* rpc,
                                        const v1::StartUploadRequest* request,
                                        v1::StartUploadResponse* response) override;
  grpc::ServerReadReactor<v1::UploadBlobRequest>* UploadBlob(
      grpc::CallbackServerContext* rpc, v1::UploadBlobResponse* response) override;
  grpc::ServerWriteReactor<v1::DownloadBlobResponse>* DownloadBlob(
      grpc::CallbackServerContext* rpc, const v1::DownloadBlobRequest* request) override;
  grpc::ServerUnaryReactor* ListArtifacts(grpc::CallbackServerContext* rpc,
                                          const v1::ListArtifactsRequest* request,
                                          v1::ListArtifactsResponse* response) override;
  grpc::ServerUnaryReactor* GetArtifact(grpc::CallbackServerContext* rpc,
                                        const v1::GetArtifactRequest* request,
                                        v1::Artifact* response) override;
  grpc::ServerUnaryReactor* CreateArtifact(grpc::CallbackServerContext* rpc,
                                           const v1::CreateArtifactRequest* request,
                                           v1::Artifact* response) override;

 private:
  absl::StatusOr<v1::ListArtifactsResponse> List(const v1::ListArtifactsRequest& request) const;

  const ServiceContext* const context_;
};

// Every path and blob of the manifest is right and there, and stays there for a grace time;
// FailedPrecondition + BLOB_MISSING names one that is not. Fills in what ResolveManifest fills in.
absl::Status CheckFiles(const ServiceContext& context, v1::Manifest* manifest);

}  // namespace quantd
