// Test support: the scheduler's services as a script, in this process on a loopback port. Replies
// are what a test puts in; what came in is kept. Thread-safe where the services are.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/sha256.h"
#include "client/cli.h"
#include "proto/channel.h"
#include "proto/errors.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"

namespace quantd {

class FakeScheduler final : public v1::JobService::Service,
                            public v1::SweepService::Service,
                            public v1::ArtifactService::Service,
                            public v1::CatalogService::Service {
 public:
  FakeScheduler() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    ApplyServerArguments(&builder);
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(static_cast<v1::JobService::Service*>(this));
    builder.RegisterService(static_cast<v1::SweepService::Service*>(this));
    builder.RegisterService(static_cast<v1::ArtifactService::Service*>(this));
    builder.RegisterService(static_cast<v1::CatalogService::Service*>(this));
    server_ = builder.BuildAndStart();
  }
  ~FakeScheduler() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  // The script. To be set before calls come.
  v1::Job job;  // What GetJob, SubmitJob and CancelJob return.
  v1::Sweep sweep;
  v1::Catalog catalog;
  std::vector<v1::Worker> workers;
  absl::Status workers_error;
  std::string version = QUANTD_VERSION;  // What ListWorkers tells.
  void SetServing(bool serving) { server_->GetHealthCheckService()->SetServingStatus(serving); }
  std::vector<v1::JobEvent> events;     // What WatchJob streams from after_sequence on.
  std::map<std::string, v1::Job> jobs;  // GetJob by name, before `job`.
  absl::Status submit_error;
  int drop_after_events = 0;  // WatchJob: UNAVAILABLE after so many events of one stream; 0: never.
  bool endless = false;       // WatchJob: stays open after the last event.
  std::map<std::string, std::string> blobs;  // By digest.
  int64_t cut_download_after_bytes = 0;      // DownloadBlob: cut_code after so many; 0: never.
  grpc::StatusCode cut_code = grpc::StatusCode::UNAVAILABLE;
  bool corrupt_downloads = false;

  // What came.
  absl::Mutex mutex;
  std::vector<v1::SubmitJobRequest> submitted;
  std::vector<v1::SubmitSweepRequest> submitted_sweeps;
  std::vector<std::string> retried_sweeps;
  std::vector<int64_t> watched_after;
  std::vector<int64_t> download_offsets;
  std::vector<v1::CreateArtifactRequest> created;
  std::atomic<int> cancels{0};

  grpc::Status SubmitJob(grpc::ServerContext*, const v1::SubmitJobRequest* request,
                         v1::SubmitJobResponse* response) override {
    const absl::MutexLock lock(&mutex);
    submitted.push_back(*request);
    if (!submit_error.ok()) return ToGrpcStatus(submit_error);
    *response->mutable_job() = job;
    *response->mutable_job()->mutable_spec() = request->spec();
    return grpc::Status::OK;
  }
  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                      v1::Job* response) override {
    const auto found = jobs.find(request->name());
    if (found == jobs.end() && request->name() != job.name()) {
      return ToGrpcStatus(absl::NotFoundError(absl::StrCat("no job ", request->name())));
    }
    *response = found == jobs.end() ? job : found->second;
    return grpc::Status::OK;
  }
  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest*,
                        v1::ListJobsResponse* response) override {
    *response->add_jobs() = job;
    return grpc::Status::OK;
  }
  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest*,
                         v1::Job* response) override {
    ++cancels;
    *response = job;
    return grpc::Status::OK;
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::JobEvent>* writer) override {
    {
      const absl::MutexLock lock(&mutex);
      watched_after.push_back(request->after_sequence());
    }
    int sent = 0;
    for (const v1::JobEvent& event : events) {
      if (event.sequence() <= request->after_sequence()) continue;
      if (drop_after_events > 0 && sent == drop_after_events) {
        return ToGrpcStatus(absl::UnavailableError("cut"));
      }
      writer->Write(event);
      ++sent;
    }
    while (endless && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(10));
    return grpc::Status::OK;
  }
  grpc::Status SubmitSweep(grpc::ServerContext*, const v1::SubmitSweepRequest* request,
                           v1::SubmitSweepResponse* response) override {
    const absl::MutexLock lock(&mutex);
    submitted_sweeps.push_back(*request);
    *response->mutable_sweep() = sweep;
    *response->mutable_sweep()->mutable_spec() = request->spec();
    return grpc::Status::OK;
  }
  grpc::Status GetSweep(grpc::ServerContext*, const v1::GetSweepRequest*,
                        v1::Sweep* response) override {
    *response = sweep;
    return grpc::Status::OK;
  }
  grpc::Status ListSweeps(grpc::ServerContext*, const v1::ListSweepsRequest*,
                          v1::ListSweepsResponse* response) override {
    *response->add_sweeps() = sweep;
    return grpc::Status::OK;
  }
  grpc::Status RetrySweep(grpc::ServerContext*, const v1::RetrySweepRequest* request,
                          v1::Sweep* response) override {
    const absl::MutexLock lock(&mutex);
    retried_sweeps.push_back(request->name());
    *response = sweep;
    return grpc::Status::OK;
  }
  grpc::Status WatchSweep(grpc::ServerContext*, const v1::WatchSweepRequest* request,
                          grpc::ServerWriter<v1::SweepEvent>* writer) override {
    const int start = request->resume_token().empty() ? 0 : std::stoi(request->resume_token());
    for (int i = start; i < static_cast<int>(events.size()); ++i) {
      if (drop_after_events > 0 && i - start == drop_after_events) {
        return ToGrpcStatus(absl::UnavailableError("cut"));
      }
      v1::SweepEvent event;
      *event.mutable_event() = events[static_cast<size_t>(i)];
      event.set_resume_token(std::to_string(i + 1));
      writer->Write(event);
    }
    return grpc::Status::OK;
  }
  grpc::Status GetCatalog(grpc::ServerContext*, const v1::GetCatalogRequest*,
                          v1::Catalog* response) override {
    *response = catalog;
    return grpc::Status::OK;
  }
  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse* response) override {
    if (!workers_error.ok()) return ToGrpcStatus(workers_error);
    context->AddInitialMetadata(kVersionMetadata, version);
    for (const v1::Worker& worker : workers) *response->add_workers() = worker;
    return grpc::Status::OK;
  }
  grpc::Status StartUpload(grpc::ServerContext*, const v1::StartUploadRequest* request,
                           v1::StartUploadResponse* response) override {
    response->set_upload(request->blob().sha256());
    response->set_complete(blobs.count(request->blob().sha256()) > 0);
    response->set_max_chunk_bytes(1000);
    return grpc::Status::OK;
  }
  grpc::Status UploadBlob(grpc::ServerContext*, grpc::ServerReader<v1::UploadBlobRequest>* reader,
                          v1::UploadBlobResponse* response) override {
    std::string data, name;
    v1::UploadBlobRequest request;
    while (reader->Read(&request)) {
      if (!request.upload().empty()) name = request.upload();
      if (request.offset() != static_cast<int64_t>(data.size())) {
        return ToGrpcStatus(absl::OutOfRangeError("gap"));
      }
      data += request.data();
    }
    if (Sha256Hex(data) != name) return ToGrpcStatus(absl::InvalidArgumentError("digest"));
    blobs[name] = data;
    response->set_committed_bytes(static_cast<int64_t>(data.size()));
    response->set_complete(true);
    return grpc::Status::OK;
  }
  grpc::Status CreateArtifact(grpc::ServerContext*, const v1::CreateArtifactRequest* request,
                              v1::Artifact* response) override {
    const absl::MutexLock lock(&mutex);
    created.push_back(*request);
    *response->mutable_manifest() = request->manifest();
    return grpc::Status::OK;
  }
  grpc::Status DownloadBlob(grpc::ServerContext*, const v1::DownloadBlobRequest* request,
                            grpc::ServerWriter<v1::DownloadBlobResponse>* writer) override {
    {
      const absl::MutexLock lock(&mutex);
      download_offsets.push_back(request->offset());
    }
    const std::string& data = blobs[request->sha256()];
    int64_t sent = 0;
    for (int64_t at = request->offset(); at < static_cast<int64_t>(data.size()); at += 1000) {
      if (cut_download_after_bytes > 0 && sent >= cut_download_after_bytes) {
        return grpc::Status(cut_code, "cut");
      }
      v1::DownloadBlobResponse chunk;
      chunk.set_offset(at);
      chunk.set_data(data.substr(static_cast<size_t>(at), 1000));
      if (corrupt_downloads) (*chunk.mutable_data())[0] ^= 1;
      sent += static_cast<int64_t>(chunk.data().size());
      writer->Write(chunk);
    }
    return grpc::Status::OK;
  }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

struct ClientRun {
  int exit_code = 0;
  std::string out;
  std::string err;
};

// quantctl in this process, without the user's own settings.
inline ClientRun RunQuantctl(const std::vector<std::string>& arguments,
                             std::map<std::string, std::string> variables = {}) {
  std::ostringstream out, err;
  Environment environment;
  environment.out = &out;
  environment.err = &err;
  environment.variable = [&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
  ClientRun run;
  run.exit_code = RunClient(arguments, environment);
  run.out = out.str();
  run.err = err.str();
  return run;
}

}  // namespace quantd
