// The scheduler's services as plain calls: the one place of quantctl that knows gRPC. A unary call
// has 30 seconds and is sent again by the channel while the scheduler is unavailable; a stream has
// no limit and ends early when its reader says so or Abort is called. Errors are absl::Status with
// the details of proto/errors.h. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/connect.h"
#include "proto/quantd/v1/access.pb.h"
#include "proto/quantd/v1/artifact.pb.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/sweep.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {

class Scheduler {
 public:
  // Connects with the first call. What is wrong with the options themselves is every call's error.
  explicit Scheduler(const ConnectOptions& options);
  ~Scheduler();

  absl::StatusOr<v1::SubmitJobResponse> Call(const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::Job> Call(const v1::GetJobRequest& request);
  absl::StatusOr<v1::ListJobsResponse> Call(const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> Call(const v1::CancelJobRequest& request);
  absl::StatusOr<v1::Job> Call(const v1::RetryJobRequest& request);
  absl::StatusOr<v1::SubmitSweepResponse> Call(const v1::SubmitSweepRequest& request);
  absl::StatusOr<v1::Sweep> Call(const v1::GetSweepRequest& request);
  absl::StatusOr<v1::ListSweepsResponse> Call(const v1::ListSweepsRequest& request);
  absl::StatusOr<v1::Sweep> Call(const v1::CancelSweepRequest& request);
  absl::StatusOr<v1::Sweep> Call(const v1::RetrySweepRequest& request);
  absl::StatusOr<v1::FindMissingBlobsResponse> Call(const v1::FindMissingBlobsRequest& request);
  absl::StatusOr<v1::StartUploadResponse> Call(const v1::StartUploadRequest& request);
  absl::StatusOr<v1::ListArtifactsResponse> Call(const v1::ListArtifactsRequest& request);
  absl::StatusOr<v1::Artifact> Call(const v1::GetArtifactRequest& request);
  absl::StatusOr<v1::Artifact> Call(const v1::CreateArtifactRequest& request);
  absl::StatusOr<v1::ListWorkersResponse> Call(const v1::ListWorkersRequest& request);
  absl::StatusOr<v1::Catalog> Call(const v1::GetCatalogRequest& request);
  absl::StatusOr<v1::WhoAmIResponse> Call(const v1::WhoAmIRequest& request);
  absl::StatusOr<v1::CreateTokenResponse> Call(const v1::CreateTokenRequest& request);
  absl::StatusOr<v1::ListTokensResponse> Call(const v1::ListTokensRequest& request);
  absl::StatusOr<v1::Token> Call(const v1::RevokeTokenRequest& request);
  absl::StatusOr<v1::Secret> Call(const v1::PutSecretRequest& request);
  absl::StatusOr<v1::ListSecretsResponse> Call(const v1::ListSecretsRequest& request);
  absl::StatusOr<v1::DeleteSecretResponse> Call(const v1::DeleteSecretRequest& request);

  // `use` returns false to end the stream; that is OK, as is the server's own end.
  template <typename Message>
  using Reader = std::function<bool(const Message&)>;
  absl::Status Stream(const v1::WatchJobRequest& request, const Reader<v1::JobEvent>& use);
  absl::Status Stream(const v1::WatchSweepRequest& request, const Reader<v1::SweepEvent>& use);
  absl::Status Stream(const v1::DownloadBlobRequest& request,
                      const Reader<v1::DownloadBlobResponse>& use);
  // `next` fills the next chunk and returns false when there is none.
  absl::StatusOr<v1::UploadBlobResponse> Upload(
      const std::function<absl::StatusOr<bool>(v1::UploadBlobRequest*)>& next);

  // What the health service says; an answer has to come within five seconds.
  absl::StatusOr<bool> Serving();
  // The scheduler's version as its last answer to a Call told it; empty before the first.
  std::string version() const;

  // Whether there is a connection, waiting at most so long for one. gRPC works at a connection only
  // while somebody waits, so a pause between attempts is best spent here.
  bool WaitUntilConnected(absl::Duration limit);

  // Ends every call under way and every later one with Cancelled.
  void Abort();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quantd
