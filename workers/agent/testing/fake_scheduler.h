// A scheduler for the agent's tests: one queue in memory behind real gRPC on loopback, strict about
// fencing tokens and event numbers, with faults to be switched on. Its state outlives Stop() and
// Start(), as a durable scheduler's does.
#pragma once

#include <grpcpp/server.h>

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"

namespace quantd {

class FakeScheduler final : public v1::WorkerService::Service, public v1::ArtifactService::Service {
 public:
  struct JobRecord {
    v1::LeaseJobResponse grant;  // The spec, inputs and checkpoint of the next lease.
    int attempt = 0;
    int64_t token = 0;
    bool leased = false;
    bool cancel = false;
    std::string instance;
    std::vector<v1::JobEvent> events;  // Of all attempts, as accepted.
    int64_t accepted = 0;              // Of the current attempt.
    int completions = 0;
    std::vector<std::string> releases;
    v1::CompleteJobRequest outcome;
    bool done = false;
  };

  FakeScheduler();
  ~FakeScheduler() override;

  void Start();  // Always on the same port.
  void Stop();
  std::string address() const { return address_; }

  // Queues a job whose behaviour is `display_name`; returns its name.
  std::string Submit(const std::string& display_name);
  std::string Submit(v1::LeaseJobResponse grant);
  // A blob that jobs may have as input.
  v1::Blob AddBlob(const std::string& bytes);
  std::string BlobBytes(const std::string& sha256);
  JobRecord Get(const std::string& job);
  // Waits for the condition; false after 120 s.
  bool WaitFor(const std::string& job, const std::function<bool(const JobRecord&)>& condition);
  bool WaitDone(const std::string& job) {
    return WaitFor(job, [](const JobRecord& record) { return record.done; });
  }
  void Cancel(const std::string& job);
  // As if the lease had run out: the token is void and the job waits for a worker again.
  void TakeAway(const std::string& job, bool requeue);
  void ForgetWorkers();
  int registrations();

  // Faults.
  absl::Duration lease_time = absl::Seconds(30);
  std::atomic<int> cut_uploads{0};  // That many upload streams break off in the middle.
  std::atomic<int> cut_downloads{0};
  std::atomic<int> refuse_reports{0};  // That many ReportJob calls are answered UNAVAILABLE.
  std::atomic<int> lose_answers{0};  // That many ReportJob answers are lost after they took effect.
  std::atomic<bool> keeps_results{false};  // FindResult knows the jobs that succeeded.
  std::atomic<int64_t> uploaded_bytes{0};
  std::atomic<int64_t> downloaded_bytes{0};

 private:
  using Context = grpc::ServerContext;
  grpc::Status RegisterWorker(Context*, const v1::RegisterWorkerRequest*,
                              v1::RegisterWorkerResponse*) override;
  grpc::Status LeaseJob(Context*, const v1::LeaseJobRequest*, v1::LeaseJobResponse*) override;
  grpc::Status ReportJob(Context*, const v1::ReportJobRequest*, v1::ReportJobResponse*) override;
  grpc::Status CompleteJob(Context*, const v1::CompleteJobRequest*,
                           v1::CompleteJobResponse*) override;
  grpc::Status FindResult(Context*, const v1::FindResultRequest*, v1::FindResultResponse*) override;
  grpc::Status ReleaseJob(Context*, const v1::ReleaseJobRequest*, v1::ReleaseJobResponse*) override;
  grpc::Status DeregisterWorker(Context*, const v1::DeregisterWorkerRequest*,
                                v1::DeregisterWorkerResponse*) override;
  grpc::Status FindMissingBlobs(Context*, const v1::FindMissingBlobsRequest*,
                                v1::FindMissingBlobsResponse*) override;
  grpc::Status StartUpload(Context*, const v1::StartUploadRequest*,
                           v1::StartUploadResponse*) override;
  grpc::Status UploadBlob(Context*, grpc::ServerReader<v1::UploadBlobRequest>*,
                          v1::UploadBlobResponse*) override;
  grpc::Status DownloadBlob(Context*, const v1::DownloadBlobRequest*,
                            grpc::ServerWriter<v1::DownloadBlobResponse>*) override;

  JobRecord* Holder(const v1::Lease& lease) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  grpc::Status Take(JobRecord* record, int64_t first_event,
                    const google::protobuf::RepeatedPtrField<v1::JobEvent>& events)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::string address_ = "127.0.0.1:0";
  std::unique_ptr<grpc::Server> server_;
  absl::Mutex mutex_;
  std::map<std::string, JobRecord> jobs_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> queue_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> workers_ ABSL_GUARDED_BY(mutex_);         // Name → instance.
  std::map<std::string, v1::LeaseJobResponse> polls_ ABSL_GUARDED_BY(mutex_);  // By request id.
  std::map<std::string, std::string> blobs_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> partial_
      ABSL_GUARDED_BY(mutex_);  // By "upload/{sha256}/{size}".
  int64_t next_token_ ABSL_GUARDED_BY(mutex_) = 1;
  int registrations_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace quantd
