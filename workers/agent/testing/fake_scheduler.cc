// One mutex over everything; a long poll waits on it.
#include "workers/agent/testing/fake_scheduler.h"

#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/sha256.h"
#include "proto/errors.h"

namespace quantd {
namespace {

grpc::Status LeaseLost() {
  return ToGrpcStatus(WithReason(absl::AbortedError("the lease is over"), kReasonLeaseLost));
}

}  // namespace

FakeScheduler::FakeScheduler() { Start(); }
FakeScheduler::~FakeScheduler() { Stop(); }

void FakeScheduler::Start() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = false;
  }
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address_, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(static_cast<v1::WorkerService::Service*>(this));
  builder.RegisterService(static_cast<v1::ArtifactService::Service*>(this));
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

void FakeScheduler::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (server_ != nullptr) {
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  }
  server_.reset();
}

std::string FakeScheduler::Submit(const std::string& display_name) {
  v1::LeaseJobResponse grant;
  grant.mutable_spec()->set_display_name(display_name);
  grant.mutable_spec()->mutable_quantize()->set_method("rtn");
  return Submit(std::move(grant));
}

std::string FakeScheduler::Submit(v1::LeaseJobResponse grant) {
  absl::MutexLock lock(&mutex_);
  const std::string job = absl::StrCat("tenants/default/jobs/j", jobs_.size() + 1);
  jobs_[job].grant = std::move(grant);
  queue_.push_back(job);
  return job;
}

v1::Blob FakeScheduler::AddBlob(const std::string& bytes) {
  v1::Blob blob;
  blob.set_sha256(Sha256Hex(bytes));
  blob.set_size_bytes(static_cast<int64_t>(bytes.size()));
  absl::MutexLock lock(&mutex_);
  blobs_[blob.sha256()] = bytes;
  return blob;
}

std::string FakeScheduler::BlobBytes(const std::string& sha256) {
  absl::MutexLock lock(&mutex_);
  return blobs_[sha256];
}

FakeScheduler::JobRecord FakeScheduler::Get(const std::string& job) {
  absl::MutexLock lock(&mutex_);
  return jobs_[job];
}

bool FakeScheduler::WaitFor(const std::string& job,
                            const std::function<bool(const JobRecord&)>& condition) {
  absl::MutexLock lock(&mutex_);
  const auto holds = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return condition(jobs_[job]); };
  return mutex_.AwaitWithTimeout(absl::Condition(&holds), absl::Seconds(120));
}

void FakeScheduler::Cancel(const std::string& job) {
  absl::MutexLock lock(&mutex_);
  jobs_[job].cancel = true;
}

void FakeScheduler::TakeAway(const std::string& job, bool requeue) {
  absl::MutexLock lock(&mutex_);
  jobs_[job].token = -1;
  jobs_[job].leased = false;
  if (requeue) queue_.push_back(job);
}

void FakeScheduler::ForgetWorkers() {
  absl::MutexLock lock(&mutex_);
  workers_.clear();
}

int FakeScheduler::registrations() {
  absl::MutexLock lock(&mutex_);
  return registrations_;
}

FakeScheduler::JobRecord* FakeScheduler::Holder(const v1::Lease& lease) {
  const auto found = jobs_.find(lease.job());
  if (found == jobs_.end() || !found->second.leased ||
      found->second.token != lease.fencing_token()) {
    return nullptr;
  }
  return &found->second;
}

grpc::Status FakeScheduler::Take(JobRecord* record, int64_t first_event,
                                 const google::protobuf::RepeatedPtrField<v1::JobEvent>& events) {
  if (first_event > record->accepted + 1) {
    return ToGrpcStatus(WithReason(absl::OutOfRangeError("a gap"), kReasonEventGap));
  }
  for (int i = 0; i < events.size(); ++i) {
    if (first_event + i <= record->accepted) continue;
    record->events.push_back(events[i]);
    ++record->accepted;
    if (events[i].has_checkpoint() && events[i].checkpoint().has_manifest()) {
      *record->grant.mutable_checkpoint() = events[i].checkpoint().manifest();
    }
  }
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::RegisterWorker(Context*, const v1::RegisterWorkerRequest* request,
                                           v1::RegisterWorkerResponse* response) {
  absl::MutexLock lock(&mutex_);
  ++registrations_;
  std::string& instance = workers_[request->worker().name()];
  if (instance != request->instance_id()) {
    for (auto& [name, job] : jobs_) {
      if (job.leased && job.instance == instance && !instance.empty()) {
        job.leased = false;
        queue_.push_back(name);
      }
    }
  }
  instance = request->instance_id();
  response->mutable_lease_time()->set_seconds(absl::ToInt64Seconds(lease_time));
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::LeaseJob(Context* context, const v1::LeaseJobRequest* request,
                                     v1::LeaseJobResponse* response) {
  absl::MutexLock lock(&mutex_);
  const auto worker = workers_.find(request->worker());
  if (worker == workers_.end()) {
    return ToGrpcStatus(WithReason(absl::NotFoundError("who?"), kReasonWorkerUnknown));
  }
  if (worker->second != request->instance_id()) {
    return ToGrpcStatus(WithReason(absl::AbortedError("replaced"), kReasonInstanceReplaced));
  }
  if (const auto before = polls_.find(request->request_id()); before != polls_.end()) {
    *response = before->second;
    return grpc::Status::OK;
  }
  const absl::Time end = absl::Now() + absl::Seconds(request->wait().seconds()) +
                         absl::Nanoseconds(request->wait().nanos());
  while (queue_.empty() && !stopping_ && !context->IsCancelled() && absl::Now() < end) {
    const auto woken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !queue_.empty() || stopping_;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&woken), absl::Milliseconds(50));
  }
  if (context->IsCancelled()) return grpc::Status::CANCELLED;
  if (stopping_) return {grpc::StatusCode::UNAVAILABLE, "draining"};
  if (queue_.empty()) return grpc::Status::OK;
  const std::string name = queue_.front();
  queue_.pop_front();
  JobRecord& job = jobs_[name];
  job.leased = true;
  job.accepted = 0;
  job.instance = request->instance_id();
  job.token = next_token_++;
  *response = job.grant;
  v1::Lease& lease = *response->mutable_lease();
  lease.set_job(name);
  lease.set_worker(request->worker());
  lease.set_attempt(++job.attempt);
  lease.set_fencing_token(job.token);
  const int64_t lease_ns = absl::ToInt64Nanoseconds(lease_time);
  lease.mutable_lease_time()->set_seconds(lease_ns / 1'000'000'000);
  lease.mutable_lease_time()->set_nanos(static_cast<int32_t>(lease_ns % 1'000'000'000));
  polls_[request->request_id()] = *response;
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::ReportJob(Context*, const v1::ReportJobRequest* request,
                                      v1::ReportJobResponse* response) {
  if (refuse_reports > 0 && refuse_reports-- > 0) {
    return {grpc::StatusCode::UNAVAILABLE, "not now"};
  }
  absl::MutexLock lock(&mutex_);
  JobRecord* job = Holder(request->lease());
  if (job == nullptr) return LeaseLost();
  if (const grpc::Status taken = Take(job, request->first_event(), request->events());
      !taken.ok()) {
    return taken;
  }
  if (lose_answers > 0 && lose_answers-- > 0) return {grpc::StatusCode::UNAVAILABLE, "cut"};
  response->set_accepted_events(job->accepted);
  response->set_cancel_requested(job->cancel);
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::CompleteJob(Context*, const v1::CompleteJobRequest* request,
                                        v1::CompleteJobResponse* response) {
  absl::MutexLock lock(&mutex_);
  JobRecord* job = Holder(request->lease());
  if (job == nullptr) return LeaseLost();
  for (const v1::ManifestFile& file : request->success().output().files()) {
    if (blobs_.count(file.blob().sha256()) == 0) {
      return {grpc::StatusCode::FAILED_PRECONDITION, "a blob is missing"};
    }
  }
  Take(job, request->first_event(), request->events());
  ++job->completions;
  job->outcome = *request;
  job->done = true;
  job->leased = false;
  response->set_state(request->has_success()   ? v1::JOB_STATE_SUCCEEDED
                      : request->has_failure() ? v1::JOB_STATE_FAILED
                                               : v1::JOB_STATE_CANCELLED);
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::FindResult(Context*, const v1::FindResultRequest* request,
                                       v1::FindResultResponse* response) {
  absl::MutexLock lock(&mutex_);
  if (Holder(request->lease()) == nullptr) return LeaseLost();
  for (const auto& [name, job] : jobs_) {
    const v1::CompleteJobRequest::Success& success = job.outcome.success();
    if (!keeps_results || success.input_digest() != request->input_digest()) continue;
    response->set_job(name);
    *response->mutable_success() = success;
    return grpc::Status::OK;
  }
  return {grpc::StatusCode::NOT_FOUND, "no job had these inputs"};
}

grpc::Status FakeScheduler::ReleaseJob(Context*, const v1::ReleaseJobRequest* request,
                                       v1::ReleaseJobResponse*) {
  absl::MutexLock lock(&mutex_);
  JobRecord* job = Holder(request->lease());
  if (job == nullptr) return LeaseLost();
  job->releases.push_back(request->reason());
  job->leased = false;
  queue_.push_back(request->lease().job());
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::DeregisterWorker(Context*, const v1::DeregisterWorkerRequest* request,
                                             v1::DeregisterWorkerResponse*) {
  absl::MutexLock lock(&mutex_);
  workers_.erase(request->worker());
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::FindMissingBlobs(Context*, const v1::FindMissingBlobsRequest* request,
                                             v1::FindMissingBlobsResponse* response) {
  absl::MutexLock lock(&mutex_);
  for (const v1::Blob& blob : request->blobs()) {
    if (blobs_.count(blob.sha256()) == 0) *response->add_missing() = blob;
  }
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::StartUpload(Context*, const v1::StartUploadRequest* request,
                                        v1::StartUploadResponse* response) {
  absl::MutexLock lock(&mutex_);
  const std::string name =
      absl::StrCat("upload/", request->blob().sha256(), "/", request->blob().size_bytes());
  response->set_upload(name);
  response->set_complete(blobs_.count(request->blob().sha256()) > 0);
  response->set_committed_bytes(static_cast<int64_t>(partial_[name].size()));
  response->set_max_chunk_bytes(64'000);
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::UploadBlob(Context*, grpc::ServerReader<v1::UploadBlobRequest>* reader,
                                       v1::UploadBlobResponse* response) {
  v1::UploadBlobRequest chunk;
  std::string name;
  int chunks = 0;
  while (reader->Read(&chunk)) {
    absl::MutexLock lock(&mutex_);
    if (!chunk.upload().empty()) name = chunk.upload();
    std::string& bytes = partial_[name];
    if (chunk.offset() > static_cast<int64_t>(bytes.size())) {
      return {grpc::StatusCode::OUT_OF_RANGE, "a gap"};
    }
    if (++chunks == 3 && cut_uploads > 0 && cut_uploads-- > 0) {
      return {grpc::StatusCode::UNAVAILABLE, "the line broke"};
    }
    uploaded_bytes += static_cast<int64_t>(chunk.data().size());
    bytes.resize(static_cast<size_t>(chunk.offset()));
    bytes += chunk.data();
    response->set_committed_bytes(static_cast<int64_t>(bytes.size()));
    if (!chunk.finish()) continue;
    const std::vector<std::string> parts = absl::StrSplit(name, '/');
    if (parts.size() != 3 || Sha256Hex(bytes) != parts[1]) {
      partial_.erase(name);
      return {grpc::StatusCode::INVALID_ARGUMENT, "another digest"};
    }
    blobs_[parts[1]] = std::move(bytes);
    partial_.erase(name);
    response->set_complete(true);
  }
  return grpc::Status::OK;
}

grpc::Status FakeScheduler::DownloadBlob(Context*, const v1::DownloadBlobRequest* request,
                                         grpc::ServerWriter<v1::DownloadBlobResponse>* writer) {
  std::string bytes;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = blobs_.find(request->sha256());
    if (found == blobs_.end()) return {grpc::StatusCode::NOT_FOUND, "no such blob"};
    bytes = found->second;
  }
  constexpr size_t kChunk = 64'000;
  int64_t offset = request->offset();
  for (int chunks = 0; offset < static_cast<int64_t>(bytes.size()); ++chunks) {
    if (chunks == 2 && cut_downloads > 0 && cut_downloads-- > 0) {
      return {grpc::StatusCode::UNAVAILABLE, "the line broke"};
    }
    v1::DownloadBlobResponse chunk;
    chunk.set_offset(offset);
    chunk.set_data(bytes.substr(static_cast<size_t>(offset), kChunk));
    offset += static_cast<int64_t>(chunk.data().size());
    downloaded_bytes += static_cast<int64_t>(chunk.data().size());
    if (!writer->Write(chunk)) break;
  }
  return grpc::Status::OK;
}

}  // namespace quantd
