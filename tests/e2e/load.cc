// Everything is sent until it is answered, as real clients and workers do; what is checked at the
// end are the answers.
#include "tests/e2e/load.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "proto/channel.h"
#include "proto/names.h"

namespace quantd::e2e {
namespace {

constexpr int kSubmitters = 3;
// Submitters wait while more jobs than this have not ended.
constexpr int64_t kUnendedMax = 40;

bool IsEnd(v1::JobState state) { return state >= v1::JOB_STATE_SUCCEEDED; }

// What the attempt with this token makes of the job: nobody else makes these bytes.
std::string OutputOf(const v1::Lease& lease) {
  std::string bytes = absl::StrCat(lease.job(), " with token ", lease.fencing_token(), "\n");
  while (bytes.size() < 20'000) bytes += bytes;
  return bytes;
}

}  // namespace

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

uint64_t ChaosSeed() {
  const uint64_t seed = FromEnvironment("QUANTD_CHAOS_SEED", std::random_device()());
  std::printf("QUANTD_CHAOS_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

Scheduler::Scheduler(std::string folder, std::string store, int lease_seconds,
                     std::vector<std::string> flags)
    : folder_(std::move(folder)),
      store_(std::move(store)),
      lease_seconds_(lease_seconds),
      flags_(std::move(flags)) {
  Start();
}

bool Scheduler::TryStart(const std::map<std::string, std::string>& environment) {
  const std::string ready = folder_ + "-ready.json";
  unlink(ready.c_str());
  std::vector<std::string> command = {Program("quantd"),
                                      "--listen",
                                      address_,
                                      "--metrics-listen",
                                      "off",
                                      "--data",
                                      folder_,
                                      "--ready-file",
                                      ready,
                                      "--lease-seconds",
                                      absl::StrCat(lease_seconds_)};
  if (!store_.empty()) command.insert(command.end(), {"--store", store_});
  command.insert(command.end(), flags_.begin(), flags_.end());
  process_ = std::make_unique<Process>(command, folder_ + ".log", environment);
  for (int i = 0; i < 3000 && !FileExists(ready); ++i) {
    if (!process_->Running()) return false;
    absl::SleepFor(absl::Milliseconds(10));
  }
  const auto read = nlohmann::json::parse(ReadFile(ready).value_or(""), nullptr, false);
  if (!read.is_object()) return false;
  address_ = read.value("listen", "");
  return true;
}

void Scheduler::Start() { ASSERT_TRUE(TryStart()) << process_->Log(); }

void Scheduler::Kill() {
  process_->Signal(SIGKILL);
  process_->Wait(absl::Seconds(5));
}

int Scheduler::Stop() {
  process_->Signal(SIGTERM);
  return process_->Wait(absl::Seconds(30));
}

Client::Client(const std::vector<std::string>& addresses, const std::atomic<bool>* give_up)
    : give_up_(give_up) {
  for (const std::string& address : addresses) {
    grpc::ChannelArguments arguments = ClientChannelArguments();
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channels_.push_back(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  }
}

void Client::Prepare(grpc::ClientContext* context) const {
  const absl::Duration limit = absl::Seconds(channels_.size() == 1 ? 5 : 10);
  context->set_deadline(absl::ToChronoTime(absl::Now() + limit));
  // Whoever waits for the connection drives it; otherwise it is looked at every 5 s only.
  context->set_wait_for_ready(channels_.size() == 1);
}

grpc::Status Client::Upload(const std::string& bytes, v1::Blob* blob) {
  blob->set_sha256(Sha256Hex(bytes));
  blob->set_size_bytes(static_cast<int64_t>(bytes.size()));
  return Persist([&](grpc::ClientContext* context) {
    const auto stub = v1::ArtifactService::NewStub(channel());
    v1::StartUploadRequest start;
    *start.mutable_blob() = *blob;
    v1::StartUploadResponse started;
    grpc::ClientContext first;
    Prepare(&first);
    const grpc::Status status = stub->StartUpload(&first, start, &started);
    if (!status.ok() || started.complete()) return status;
    v1::UploadBlobResponse response;
    const auto stream = stub->UploadBlob(context, &response);
    // In two pieces, so that one may be there without the other.
    const auto total = static_cast<int64_t>(bytes.size());
    int64_t at = started.committed_bytes();
    do {  // All bytes may be there and only the end missing.
      const int64_t step = std::min(total / 2 + 1, total - at);
      v1::UploadBlobRequest chunk;
      chunk.set_upload(started.upload());
      chunk.set_offset(at);
      chunk.set_data(bytes.substr(static_cast<size_t>(at), static_cast<size_t>(step)));
      at += step;
      chunk.set_finish(at == total);
      if (!stream->Write(chunk)) break;
    } while (at < total);
    stream->WritesDone();
    const grpc::Status sent = stream->Finish();
    if (sent.ok() && !response.complete()) {
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the upload broke off");
    }
    return sent;
  });
}

grpc::Status Client::Download(const v1::Blob& blob, std::string* bytes) {
  return Persist([&](grpc::ClientContext* context) {
    v1::DownloadBlobRequest request;
    request.set_sha256(blob.sha256());
    const auto stream = v1::ArtifactService::NewStub(channel())->DownloadBlob(context, request);
    v1::DownloadBlobResponse chunk;
    bytes->clear();
    while (stream->Read(&chunk)) *bytes += chunk.data();
    return stream->Finish();
  });
}

grpc::Status Client::Events(const std::string& job, std::vector<v1::JobEvent>* events) {
  return Persist([&](grpc::ClientContext* context) {
    v1::WatchJobRequest request;
    request.set_name(job);
    request.set_snapshot(true);
    const auto stream = v1::JobService::NewStub(channel())->WatchJob(context, request);
    events->clear();
    v1::JobEvent event;
    while (stream->Read(&event)) {
      if (event.sequence() > 0) events->push_back(event);
    }
    return stream->Finish();
  });
}

grpc::Status Client::Jobs(std::vector<v1::Job>* jobs) {
  v1::ListJobsRequest list;
  list.set_page_size(1000);
  do {
    v1::ListJobsResponse page;
    const grpc::Status status = Ask<v1::JobService>(&v1::JobService::Stub::ListJobs, list, &page);
    if (!status.ok()) return status;
    jobs->insert(jobs->end(), page.jobs().begin(), page.jobs().end());
    list.set_page_token(page.next_page_token());
  } while (!list.page_token().empty());
  return grpc::Status::OK;
}

// --- What was told.

void History::Accepted(const std::string& request_id, const std::string& job) {
  absl::MutexLock lock(&mutex_);
  const auto [known, fresh] = requests_.emplace(request_id, job);
  if (!fresh && known->second != job) {
    broken_.push_back(absl::StrCat(request_id, " is ", known->second, " and ", job));
  }
}

void History::Granted(const v1::Lease& lease) {
  absl::MutexLock lock(&mutex_);
  ++leases_;
  auto& attempts = jobs_[lease.job()].attempts;
  Attempt& attempt = attempts[lease.attempt()];
  if (attempt.token != 0 &&
      (attempt.token != lease.fencing_token() || attempt.worker != lease.worker())) {
    broken_.push_back(
        absl::StrCat("attempt ", lease.attempt(), " of ", lease.job(), " was granted twice"));
  }
  attempt.token = lease.fencing_token();
  attempt.worker = lease.worker();
  int64_t last = 0;
  for (const auto& [number, one] : attempts) {
    if (one.token <= last) {
      broken_.push_back(absl::StrCat("the tokens of ", lease.job(), " do not grow"));
    }
    last = one.token;
  }
}

void History::Reported(const v1::Lease& lease, int64_t events) {
  absl::MutexLock lock(&mutex_);
  int64_t& known = jobs_[lease.job()].attempts[lease.attempt()].events;
  known = std::max(known, events);
}

void History::Completed(const v1::Lease& lease, v1::JobState state) {
  absl::MutexLock lock(&mutex_);
  ++outcomes_;
  ended_ += IsEnd(state);
  if (state == v1::JOB_STATE_SUCCEEDED) jobs_[lease.job()].succeeded.insert(lease.fencing_token());
}

void History::Cancelled(v1::JobState state) {
  absl::MutexLock lock(&mutex_);
  ended_ += IsEnd(state);
}

void History::Lost() {
  absl::MutexLock lock(&mutex_);
  ++lost_;
}

int64_t History::accepted() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(requests_.size());
}

int64_t History::ended() const {
  absl::MutexLock lock(&mutex_);
  return ended_;
}

int64_t History::answers() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(requests_.size()) + leases_ + outcomes_;
}

std::string History::Summary() const {
  absl::MutexLock lock(&mutex_);
  return absl::StrCat(requests_.size(), " jobs acknowledged, ", leases_, " leases, ", outcomes_,
                      " outcomes accepted, ", lost_, " attempts lost");
}

void History::CheckJob(const v1::Job& job, Client* client, std::vector<std::string>* broken) const {
  const auto bad = [&](const auto&... words) {
    broken->push_back(absl::StrCat(job.name(), ": ", words...));
  };
  std::vector<v1::JobEvent> events;
  if (const grpc::Status read = client->Events(job.name(), &events); !read.ok()) {
    return bad("its events cannot be read: ", read.error_message());
  }
  int64_t sequence = 0;
  int ends = 0;
  int attempt = 0;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  std::map<int, int64_t> stored;  // Events of its workers, by attempt.
  for (const v1::JobEvent& event : events) {
    if (event.sequence() != ++sequence) bad("event ", event.sequence(), " follows a gap");
    if (event.attempt() < attempt) bad("an older attempt wrote after a newer one");
    attempt = event.attempt();
    if (event.has_state()) state = event.state().state();
    ends += event.has_state() && IsEnd(state);
    stored[attempt] += event.has_log() || event.has_checkpoint();
  }
  if (ends != 1) bad("ended ", ends, " times");
  if (state != job.state()) bad("its last event and its record disagree");
  absl::MutexLock lock(&mutex_);
  const auto told = jobs_.find(job.name());
  if (told == jobs_.end()) return;
  for (const auto& [number, one] : told->second.attempts) {
    if (stored[number] < one.events) {
      bad(one.events, " events of attempt ", number, " were acknowledged, ", stored[number],
          " are there");
    }
  }
  // The answer to the accepted one may have died with its scheduler; two never pass.
  if (told->second.succeeded.size() > 1) bad("succeeded with several tokens");
  if (!told->second.succeeded.empty() && job.state() != v1::JOB_STATE_SUCCEEDED) {
    bad("a success was accepted, and it is ", v1::JobState_Name(job.state()));
  }
  if (job.state() != v1::JOB_STATE_SUCCEEDED) return;
  const auto last = told->second.attempts.find(job.attempt());
  if (last == told->second.attempts.end()) return bad("succeeded in an attempt nobody was granted");
  if (last->second.token != told->second.attempts.rbegin()->second.token ||
      (!told->second.succeeded.empty() && *told->second.succeeded.begin() != last->second.token)) {
    bad("the accepted outcome is not the last granted lease's");
  }
  if (job.output().files().empty()) return;
  v1::Lease lease;
  lease.set_job(job.name());
  lease.set_fencing_token(last->second.token);
  const v1::Blob& blob = job.output().files(0).blob();
  std::string bytes;
  const grpc::Status got = client->Download(blob, &bytes);
  if (!got.ok() || bytes != OutputOf(lease) || Sha256Hex(bytes) != blob.sha256()) {
    bad("its output is not what the accepted attempt made (", got.error_message(), ")");
  }
  v1::GetArtifactRequest request;
  request.set_name(ArtifactName({"default", job.output().sha256()}));
  v1::Artifact artifact;
  const grpc::Status found =
      client->Ask<v1::ArtifactService>(&v1::ArtifactService::Stub::GetArtifact, request, &artifact);
  if (!found.ok() || artifact.manifest().sha256() != job.output().sha256()) {
    bad("its output has no manifest of its own: ", found.error_message());
  }
}

std::vector<std::string> History::Broken(Client client, bool all_submitted) const {
  std::vector<std::string> broken;
  std::set<std::string> acknowledged;
  {
    absl::MutexLock lock(&mutex_);
    broken = broken_;
    for (const auto& [request, job] : requests_) {
      if (!acknowledged.insert(job).second) broken.push_back("two requests are " + job);
    }
  }
  std::set<std::string> listed;
  std::vector<v1::Job> jobs;
  const grpc::Status status = client.Jobs(&jobs);
  if (!status.ok()) broken.push_back("jobs cannot be listed: " + status.error_message());
  for (const v1::Job& one : jobs) {
    listed.insert(one.name());
    v1::GetJobRequest get;
    get.set_name(one.name());
    v1::Job job;
    const grpc::Status read = client.Ask<v1::JobService>(&v1::JobService::Stub::GetJob, get, &job);
    if (!read.ok()) broken.push_back(one.name() + ": " + read.error_message());
    if (read.ok()) CheckJob(job, &client, &broken);
    if (all_submitted && acknowledged.count(one.name()) == 0) {
      broken.push_back(one.name() + " is nobody's");
    }
  }
  for (const std::string& job : acknowledged) {
    if (listed.count(job) == 0) broken.push_back(job + " was acknowledged and is lost");
  }
  return broken;
}

// --- Workers.

FakeWorker::FakeWorker(int index, const std::vector<std::string>& addresses, uint64_t seed,
                       Manner manner, History* history, const std::atomic<bool>* stop)
    : name_(absl::StrCat("workers/fake-", index)),
      manner_(manner),
      client_(addresses, stop),
      random_(seed),
      history_(*history),
      stop_(*stop) {}

void FakeWorker::Run() {
  Register();
  for (int poll = 0; !stop_; ++poll) {
    v1::LeaseJobRequest request;
    request.set_worker(name_);
    request.set_instance_id(name_.substr(8));
    request.set_request_id(absl::StrCat("poll-", poll));
    request.mutable_wait()->set_seconds(1);
    v1::LeaseJobResponse response;
    const grpc::Status status =
        client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::LeaseJob, request, &response);
    if (status.error_code() == grpc::StatusCode::NOT_FOUND) Register();
    if (status.ok() && response.has_lease()) Work(response.lease());
  }
}

grpc::Status RegisterFake(Client* client, const std::string& name, const std::string& instance) {
  v1::RegisterWorkerRequest request;
  v1::Worker& worker = *request.mutable_worker();
  worker.set_name(name);
  for (const char* kind : {"quantize", "evaluate", "benchmark", "verify", "compare", "report"}) {
    worker.mutable_catalog()->add_kinds(kind);
  }
  v1::MethodInfo& method = *worker.mutable_catalog()->add_methods();
  method.set_name("rtn");
  method.add_formats("gptq");
  v1::OptionInfo& bits = *method.add_options();
  bits.set_name("bits");
  bits.set_type(v1::OptionInfo::INT);
  bits.set_minimum(1);
  bits.set_maximum(100);
  worker.mutable_catalog()->add_tasks()->set_name("perplexity");
  worker.mutable_catalog()->add_devices()->set_type("cpu");
  request.set_instance_id(instance);
  v1::RegisterWorkerResponse response;
  return client->Ask<v1::WorkerService>(&v1::WorkerService::Stub::RegisterWorker, request,
                                        &response);
}

void FakeWorker::Register() {
  const grpc::Status status = RegisterFake(&client_, name_, name_.substr(8));
  EXPECT_TRUE(status.ok() || stop_) << status.error_message();
}

void FakeWorker::Work(const v1::Lease& lease) {
  history_.Granted(lease);
  const uint64_t dice = manner_.steady ? 99 : random_() % 40;
  const int64_t steps = 1 + static_cast<int64_t>(random_() % 4);
  for (int64_t step = 1; step <= steps; ++step) {
    absl::SleepFor(absl::Milliseconds(1 + random_() % (2 * manner_.step_ms)));
    v1::JobEvent event;
    event.mutable_log()->set_text(absl::StrCat("step ", step));
    if (!Report(lease, step, std::move(event))) return history_.Lost();
  }
  if (dice == 0) return;  // Forgotten: the lease runs out.
  if (dice == 1) return Release(lease) ? void() : history_.Lost();
  if (dice % 4 == 3) {
    v1::JobEvent event;
    v1::ManifestFile& file = *event.mutable_checkpoint()->mutable_manifest()->add_files();
    file.set_path("block");
    file.set_role("checkpoint");
    const std::string bytes = absl::StrCat("checkpoint with token ", lease.fencing_token());
    if (!client_.Upload(bytes, file.mutable_blob()).ok()) return history_.Lost();
    event.mutable_checkpoint()->set_blocks_done(1);
    if (!Report(lease, steps + 1, std::move(event))) return history_.Lost();
  }
  Complete(lease, dice != 2);
}

bool FakeWorker::Report(const v1::Lease& lease, int64_t number, v1::JobEvent event) {
  v1::ReportJobRequest report;
  *report.mutable_lease() = lease;
  report.set_first_event(number);
  *report.add_events() = std::move(event);
  v1::ReportJobResponse response;
  const grpc::Status status =
      client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::ReportJob, report, &response);
  if (status.ok()) history_.Reported(lease, response.accepted_events());
  return status.ok();
}

bool FakeWorker::Release(const v1::Lease& lease) {
  v1::ReleaseJobRequest request;
  *request.mutable_lease() = lease;
  request.set_reason("a whim");
  v1::ReleaseJobResponse response;
  return client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::ReleaseJob, request, &response)
      .ok();
}

void FakeWorker::Complete(const v1::Lease& lease, bool success) {
  v1::CompleteJobRequest complete;
  *complete.mutable_lease() = lease;
  if (success && !manner_.outputs) {
    complete.mutable_success();
  } else if (success) {
    v1::ManifestFile& file = *complete.mutable_success()->mutable_output()->add_files();
    file.set_path("output");
    file.set_role("data");
    if (!client_.Upload(OutputOf(lease), file.mutable_blob()).ok()) return history_.Lost();
  } else {
    complete.mutable_failure()->set_error_class(v1::ERROR_CLASS_ENGINE_CRASH);
    complete.mutable_failure()->set_message("a whim");
  }
  v1::CompleteJobResponse response;
  const grpc::Status status =
      client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::CompleteJob, complete, &response);
  return status.ok() ? history_.Completed(lease, response.state()) : history_.Lost();
}

// --- Clients.

Load::Load(const std::vector<std::string>& addresses, uint64_t seed, Manner manner)
    : addresses_(addresses), seed_(seed), manner_(manner) {
  for (int i = 0; i < manner_.workers; ++i) {
    workers_.emplace_back([this, i] {
      FakeWorker(i, addresses_, seed_ + static_cast<uint64_t>(i), manner_, &history_, &stop_).Run();
    });
  }
  for (int i = 0; i < kSubmitters; ++i) clients_.emplace_back([this, i] { Submit(i); });
}

Load::~Load() { Abandon(); }

void Load::Abandon() {
  stop_submitting_ = stop_ = true;
  for (auto* threads : {&clients_, &workers_}) {
    for (std::thread& thread : *threads) thread.join();
    threads->clear();
  }
}

void Load::Submit(int index) {
  Client client(addresses_, &stop_);
  std::mt19937_64 random(seed_ + 100 + static_cast<uint64_t>(index));
  for (int number = 0; !stop_submitting_; ++number) {
    absl::SleepFor(absl::Milliseconds(10 + random() % 30));
    if (history_.accepted() - history_.ended() > kUnendedMax) continue;
    v1::SubmitJobRequest request;
    request.set_request_id(absl::StrCat("load-", index, "-", number));
    request.mutable_spec()->mutable_quantize()->set_model("/models/tiny");
    request.mutable_spec()->mutable_quantize()->set_method("rtn");
    request.mutable_spec()->mutable_retry()->set_max_attempts(manner_.steady ? 1 : 100);
    request.mutable_spec()->mutable_retry()->mutable_backoff()->set_nanos(50'000'000);
    request.mutable_spec()->mutable_retry()->mutable_backoff_max()->set_nanos(100'000'000);
    v1::SubmitJobResponse response;
    const grpc::Status status =
        client.Ask<v1::JobService>(&v1::JobService::Stub::SubmitJob, request, &response);
    EXPECT_TRUE(status.ok() || stop_) << status.error_message();
    if (!status.ok()) return;
    history_.Accepted(request.request_id(), response.job().name());
    if (manner_.outputs && random() % 8 == 0) {
      v1::CreateArtifactRequest create;
      create.set_parent("tenants/default");
      v1::ManifestFile& file = *create.mutable_manifest()->add_files();
      file.set_path("data");
      file.set_role("data");
      v1::Artifact artifact;
      grpc::Status made = client.Upload(request.request_id(), file.mutable_blob());
      if (made.ok()) {
        made = client.Ask<v1::ArtifactService>(&v1::ArtifactService::Stub::CreateArtifact, create,
                                               &artifact);
      }
      EXPECT_TRUE(made.ok() || stop_) << made.error_code() << " " << made.error_message();
    }
    if (!manner_.steady && random() % 12 == 0) {
      v1::CancelJobRequest cancel;
      cancel.set_name(response.job().name());
      v1::Job job;
      client.Ask<v1::JobService>(&v1::JobService::Stub::CancelJob, cancel, &job);
      history_.Cancelled(job.state());
    } else if (random() % 6 == 0) {
      Watch(response.job().name(), &client);
    }
  }
}

// To the job's end, over any number of breaks.
void Load::Watch(const std::string& job, Client* client) {
  int64_t sequence = 0;
  for (int tries = 0; tries < 1000 && !stop_; ++tries) {
    v1::WatchJobRequest request;
    request.set_name(job);
    request.set_after_sequence(sequence);
    grpc::ClientContext context;
    client->Prepare(&context);
    const auto stream = v1::JobService::NewStub(client->channel())->WatchJob(&context, request);
    v1::JobEvent event;
    while (stream->Read(&event)) {
      if (event.sequence() == 0) continue;
      EXPECT_EQ(event.sequence(), sequence + 1) << job << ": a watch has a gap";
      sequence = event.sequence();
    }
    if (stream->Finish().ok()) return;
    ++resumed_;
    client->Next();
    absl::SleepFor(absl::Milliseconds(20));
  }
}

bool Load::Finish(absl::Duration limit) {
  stop_submitting_ = true;
  for (std::thread& client : clients_) client.join();
  clients_.clear();
  Client client(addresses_);
  const absl::Time end = absl::Now() + limit;
  bool ended = false;
  while (!ended && absl::Now() < end) {
    v1::ListJobsRequest list;
    list.set_page_size(1);
    for (const v1::JobState state : {v1::JOB_STATE_PENDING, v1::JOB_STATE_QUEUED,
                                     v1::JOB_STATE_RUNNING, v1::JOB_STATE_CANCELLING}) {
      list.add_states(state);
    }
    v1::ListJobsResponse unended;
    ended = client.Ask<v1::JobService>(&v1::JobService::Stub::ListJobs, list, &unended).ok() &&
            unended.jobs().empty();
    absl::SleepFor(absl::Milliseconds(20));
  }
  stop_ = true;
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  return ended;
}

}  // namespace quantd::e2e
