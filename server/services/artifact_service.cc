// Thin: the store does the work, blob_streams.h the streaming.
#include "server/services/artifact_service.h"

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/channel.h"
#include "proto/names.h"
#include "server/services/blob_streams.h"
#include "server/services/unary.h"

namespace quantd {
namespace {

constexpr char kService[] = "quantd.v1.ArtifactService";
constexpr int kBlobsMax = 10'000;  // As artifact.proto promises.
constexpr int kPageSizeDefault = 50;
constexpr int kPageSizeMax = 1000;

absl::StatusOr<v1::FindMissingBlobsResponse> FindMissing(
    const ServiceContext& context, const v1::FindMissingBlobsRequest& request) {
  if (request.blobs_size() > kBlobsMax) {
    return FieldError("blobs",
                      absl::StrCat("has ", request.blobs_size(), " entries; at most ", kBlobsMax));
  }
  std::vector<std::string> keys;
  for (const v1::Blob& blob : request.blobs()) {
    QD_RETURN_IF_ERROR(CheckBlob(blob));
    keys.push_back(BlobKey(blob.sha256()));
  }
  QD_RETURN_IF_ERROR(context.keeper->Keep(keys));
  v1::FindMissingBlobsResponse response;
  for (const v1::Blob& blob : request.blobs()) {
    QD_ASSIGN_OR_RETURN(const bool there, context.artifacts->Has(blob));
    if (!there) *response.add_missing() = blob;
  }
  return response;
}

absl::StatusOr<v1::StartUploadResponse> Start(const ServiceContext& context, const v1::Blob& blob) {
  QD_RETURN_IF_ERROR(CheckBlob(blob));
  QD_RETURN_IF_ERROR(context.keeper->Keep({BlobKey(blob.sha256())}));
  QD_ASSIGN_OR_RETURN(UploadState state, context.artifacts->StartUpload(blob));
  v1::StartUploadResponse response;
  response.set_upload(std::move(state.upload));
  response.set_committed_bytes(state.committed_bytes);
  response.set_complete(state.complete);
  response.set_max_chunk_bytes(kChunkBytes);
  return response;
}

}  // namespace

absl::Status CheckFiles(const ServiceContext& context, v1::Manifest* manifest) {
  QD_RETURN_IF_ERROR(ResolveManifest(manifest));
  QD_RETURN_IF_ERROR(context.keeper->Keep(BlobKeys(*manifest)));
  for (const v1::ManifestFile& file : manifest->files()) {
    QD_ASSIGN_OR_RETURN(const bool there, context.artifacts->Has(file.blob()));
    if (there) continue;
    const std::string subject =
        absl::StrCat("blobs/", file.blob().sha256(), "/", file.blob().size_bytes());
    return WithPrecondition(WithReason(absl::FailedPreconditionError(
                                           absl::StrCat("the store lacks ", subject, ", which is ",
                                                        file.path(), "; upload it first")),
                                       kReasonBlobMissing),
                            {"MISSING", subject, file.path()});
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* ArtifactServiceImpl::FindMissingBlobs(
    grpc::CallbackServerContext* rpc, const v1::FindMissingBlobsRequest* request,
    v1::FindMissingBlobsResponse* response) {
  return ServeRead(Call(context_, rpc, kService, "FindMissingBlobs", *request), context_->disk,
                   response, [this, request] { return FindMissing(*context_, *request); });
}

grpc::ServerUnaryReactor* ArtifactServiceImpl::StartUpload(grpc::CallbackServerContext* rpc,
                                                           const v1::StartUploadRequest* request,
                                                           v1::StartUploadResponse* response) {
  return ServeRead(Call(context_, rpc, kService, "StartUpload", *request), context_->disk, response,
                   [this, request] { return Start(*context_, request->blob()); });
}

grpc::ServerReadReactor<v1::UploadBlobRequest>* ArtifactServiceImpl::UploadBlob(
    grpc::CallbackServerContext* rpc, v1::UploadBlobResponse* response) {
  return StartUploadStream(context_, rpc, response);
}

grpc::ServerWriteReactor<v1::DownloadBlobResponse>* ArtifactServiceImpl::DownloadBlob(
    grpc::CallbackServerContext* rpc, const v1::DownloadBlobRequest* request) {
  return StartDownloadStream(context_, rpc, request);
}

absl::StatusOr<v1::ListArtifactsResponse> ArtifactServiceImpl::List(
    const v1::ListArtifactsRequest& request) const {
  v1::ListArtifactsResponse response;
  if (const auto job_name = ParseJobName(request.parent()); job_name.ok()) {
    v1::GetJobRequest get;
    get.set_name(request.parent());
    QD_ASSIGN_OR_RETURN(v1::Job job, context_->queue->GetJob(get, context_->now()));
    if (job.output().files().empty()) return response;
    v1::Artifact* artifact = response.add_artifacts();
    artifact->set_name(ArtifactName({job_name->tenant, job.output().sha256()}));
    artifact->set_job(job.name());
    *artifact->mutable_manifest() = std::move(*job.mutable_output());
    return response;
  }
  const auto tenant = ParseTenantName(request.parent());
  if (!tenant.ok()) {
    return FieldError("parent", "is neither tenants/{tenant} nor tenants/{tenant}/jobs/{job}");
  }
  if (request.page_size() < 0) return FieldError("page_size", "is negative");
  const int page_size =
      request.page_size() == 0 ? kPageSizeDefault : std::min(request.page_size(), kPageSizeMax);
  // The token is "{tenant}/{last digest}": another parent's is refused.
  std::string after;
  if (!request.page_token().empty()) {
    const std::string prefix = *tenant + "/";
    if (request.page_token().compare(0, prefix.size(), prefix) != 0) {
      return FieldError("page_token", "belongs to another parent");
    }
    after = request.page_token().substr(prefix.size());
  }
  QD_ASSIGN_OR_RETURN(auto artifacts,
                      context_->artifacts->ListArtifacts(*tenant, after, page_size + 1));
  const bool more = static_cast<int>(artifacts.size()) > page_size;
  if (more) artifacts.pop_back();
  if (more)
    response.set_next_page_token(absl::StrCat(*tenant, "/", artifacts.back().manifest().sha256()));
  for (v1::Artifact& artifact : artifacts) *response.add_artifacts() = std::move(artifact);
  return response;
}

grpc::ServerUnaryReactor* ArtifactServiceImpl::ListArtifacts(
    grpc::CallbackServerContext* rpc, const v1::ListArtifactsRequest* request,
    v1::ListArtifactsResponse* response) {
  return ServeList(Call(context_, rpc, kService, "ListArtifacts", *request), request, response,
                   [this](const v1::ListArtifactsRequest& inner) { return List(inner); });
}

grpc::ServerUnaryReactor* ArtifactServiceImpl::GetArtifact(grpc::CallbackServerContext* rpc,
                                                           const v1::GetArtifactRequest* request,
                                                           v1::Artifact* response) {
  return ServeRead(Call(context_, rpc, kService, "GetArtifact", *request), context_->disk, response,
                   [this, request]() -> absl::StatusOr<v1::Artifact> {
                     const auto name = ParseArtifactName(request->name());
                     if (!name.ok()) return absl::NotFoundError(name.status().message());
                     return context_->artifacts->GetArtifact(name->tenant, name->id);
                   });
}

grpc::ServerUnaryReactor* ArtifactServiceImpl::CreateArtifact(
    grpc::CallbackServerContext* rpc, const v1::CreateArtifactRequest* request,
    v1::Artifact* response) {
  return ServeRead(
      Call(context_, rpc, kService, "CreateArtifact", *request), context_->disk, response,
      [this, request]() -> absl::StatusOr<v1::Artifact> {
        const auto tenant = ParseTenantName(request->parent());
        if (!tenant.ok()) return FieldError("parent", tenant.status().message());
        if (request->manifest().files().empty()) return FieldError("manifest.files", "is empty");
        v1::Artifact artifact;
        *artifact.mutable_manifest() = request->manifest();
        QD_RETURN_IF_ERROR(CheckFiles(*context_, artifact.mutable_manifest()));
        artifact.set_name(ArtifactName({*tenant, artifact.manifest().sha256()}));
        QD_RETURN_IF_ERROR(context_->queue->AdmitArtifact(*tenant, artifact.manifest()));
        FaultPoint("artifact/admitted");
        QD_RETURN_IF_ERROR(context_->artifacts->PutArtifact(artifact));
        return context_->artifacts->GetArtifact(*tenant, artifact.manifest().sha256());
      });
}

}  // namespace quantd
