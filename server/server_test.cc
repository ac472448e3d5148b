// The whole scheduler over loopback sockets, with the real store: what clients and workers may rely
// on.
#include "server/server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "proto/channel.h"
#include "proto/errors.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    char pattern[] = "/tmp/quantd_server_XXXXXX";
    folder_ = mkdtemp(pattern);
    options_.listen = "127.0.0.1:0";
    options_.metrics_listen = "off";
    options_.data = folder_;
    options_.free_bytes_min = 0;
    Restart();
  }
  ~ServerTest() override {
    server_.reset();
    EXPECT_TRUE(RemoveTree(folder_).ok());
  }

  void Restart() {
    server_.reset();
    auto server = Server::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto channel = grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(),
                                             ClientChannelArguments());
    jobs_ = v1::JobService::NewStub(channel);
    sweeps_ = v1::SweepService::NewStub(channel);
    workers_ = v1::WorkerService::NewStub(channel);
    catalog_ = v1::CatalogService::NewStub(channel);
    artifacts_ = v1::ArtifactService::NewStub(channel);
  }

  // One unary call with a deadline.
  template <typename Stub, typename Request, typename Response>
  absl::Status Ask(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                   Stub* stub, const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(30)));
    return FromGrpcStatus((stub->*method)(&context, request, response));
  }

  absl::StatusOr<v1::SubmitJobResponse> Submit(const v1::SubmitJobRequest& request) {
    v1::SubmitJobResponse response;
    const absl::Status status =
        Ask(&v1::JobService::Stub::SubmitJob, jobs_.get(), request, &response);
    if (!status.ok()) return status;
    return response;
  }
  static v1::SubmitJobRequest Request(const std::string& request_id = "") {
    v1::SubmitJobRequest request;
    request.mutable_spec()->mutable_quantize()->set_model("/models/tiny");
    request.mutable_spec()->mutable_quantize()->set_method("rtn");
    request.set_request_id(request_id);
    return request;
  }

  void Register(const std::string& worker = "w1") {
    v1::RegisterWorkerRequest request;
    request.mutable_worker()->set_name("workers/" + worker);
    v1::Catalog& catalog = *request.mutable_worker()->mutable_catalog();
    catalog.add_kinds("quantize");
    v1::MethodInfo& method = *catalog.add_methods();
    method.set_name("rtn");
    method.add_formats("gptq");
    v1::OptionInfo& bits = *method.add_options();
    bits.set_name("bits");
    bits.set_type(v1::OptionInfo::INT);
    bits.mutable_default_value()->set_number_value(4);
    bits.set_minimum(2);
    bits.set_maximum(8);
    catalog.add_devices()->set_type("cpu");
    request.set_instance_id("instance-" + worker);
    v1::RegisterWorkerResponse response;
    const absl::Status status =
        Ask(&v1::WorkerService::Stub::RegisterWorker, workers_.get(), request, &response);
    ASSERT_TRUE(status.ok()) << status;
  }

  absl::StatusOr<v1::LeaseJobResponse> Lease(absl::Duration wait,
                                             const std::string& worker = "w1") {
    v1::LeaseJobRequest request;
    request.set_worker("workers/" + worker);
    request.set_instance_id("instance-" + worker);
    request.set_request_id(absl::StrCat("poll-", polls_++));
    request.mutable_wait()->set_seconds(absl::ToInt64Seconds(wait));
    v1::LeaseJobResponse response;
    const absl::Status status =
        Ask(&v1::WorkerService::Stub::LeaseJob, workers_.get(), request, &response);
    if (!status.ok()) return status;
    return response;
  }

  absl::StatusOr<v1::CompleteJobResponse> Complete(const v1::Lease& lease,
                                                   const v1::Manifest& output = {}) {
    v1::CompleteJobRequest request;
    *request.mutable_lease() = lease;
    *request.mutable_success()->mutable_output() = output;
    v1::CompleteJobResponse response;
    const absl::Status status =
        Ask(&v1::WorkerService::Stub::CompleteJob, workers_.get(), request, &response);
    if (!status.ok()) return status;
    return response;
  }

  // Sends the data from where the server is, `bytes_max` of it at most.
  absl::StatusOr<v1::UploadBlobResponse> Upload(const std::string& data,
                                                size_t bytes_max = SIZE_MAX) {
    v1::StartUploadRequest start;
    start.mutable_blob()->set_sha256(Sha256Hex(data));
    start.mutable_blob()->set_size_bytes(static_cast<int64_t>(data.size()));
    v1::StartUploadResponse started;
    const absl::Status status =
        Ask(&v1::ArtifactService::Stub::StartUpload, artifacts_.get(), start, &started);
    if (!status.ok()) return status;
    grpc::ClientContext context;
    v1::UploadBlobResponse response;
    auto writer = artifacts_->UploadBlob(&context, &response);
    size_t at = static_cast<size_t>(started.committed_bytes());
    const size_t stop = std::min(data.size(), at + std::min(bytes_max, data.size()));
    v1::UploadBlobRequest chunk;
    chunk.set_upload(started.upload());
    do {
      const size_t size = std::min(stop - at, static_cast<size_t>(started.max_chunk_bytes()));
      chunk.set_offset(static_cast<int64_t>(at));
      chunk.set_data(data.substr(at, size));
      at += size;
      chunk.set_finish(at == data.size());
      if (!writer->Write(chunk)) break;
    } while (at < stop);
    writer->WritesDone();
    const absl::Status end = FromGrpcStatus(writer->Finish());
    if (!end.ok()) return end;
    return response;
  }

  absl::StatusOr<std::string> Download(const std::string& sha256, int64_t offset = 0,
                                       int64_t limit = 0) {
    v1::DownloadBlobRequest request;
    request.set_sha256(sha256);
    request.set_offset(offset);
    request.set_limit_bytes(limit);
    grpc::ClientContext context;
    auto reader = artifacts_->DownloadBlob(&context, request);
    std::string data;
    v1::DownloadBlobResponse chunk;
    while (reader->Read(&chunk)) data += chunk.data();
    const absl::Status end = FromGrpcStatus(reader->Finish());
    if (!end.ok()) return end;
    return data;
  }

  ServerOptions options_;
  std::string folder_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::SweepService::Stub> sweeps_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
  std::unique_ptr<v1::CatalogService::Stub> catalog_;
  std::unique_ptr<v1::ArtifactService::Stub> artifacts_;
  std::atomic<int> polls_{0};
};

TEST_F(ServerTest, ARepeatedSubmitIsTheSameJobAlsoAfterAWorkerChangedItsDefaults) {
  const auto first = Submit(Request("id-1"));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT(first->warnings(), testing::Contains(HasSubstr("no worker")));
  EXPECT_EQ(Submit(Request("id-1"))->job().name(), first->job().name());
  Register();
  const auto again = Submit(Request("id-1"));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->job().name(), first->job().name());
  v1::SubmitJobRequest other = Request("id-1");
  other.mutable_spec()->set_priority(5);
  EXPECT_EQ(ReasonOf(Submit(other).status()), kReasonRequestIdReused);
  Restart();
  EXPECT_EQ(Submit(Request("id-1"))->job().name(), first->job().name());
}

TEST_F(ServerTest, ARepeatedSubmitIsAnsweredAlsoWhenNobodyWouldTakeItNow) {
  v1::SubmitJobRequest request = Request("id-1");
  request.mutable_spec()->mutable_quantize()->set_method("hqq");
  const auto first = Submit(request);
  ASSERT_TRUE(first.ok()) << first.status();
  Register();  // It offers rtn only.
  const auto again = Submit(request);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->job().name(), first->job().name());
  request.set_request_id("id-2");
  EXPECT_EQ(Submit(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ServerTest, ValidationNamesEveryFieldAndValidateOnlyStoresNothing) {
  Register();
  v1::SubmitJobRequest request = Request();
  request.set_validate_only(true);
  const auto valid = Submit(request);
  ASSERT_TRUE(valid.ok()) << valid.status();
  EXPECT_EQ(valid->job().name(), "");
  EXPECT_EQ(valid->job().spec().quantize().options().fields().at("bits").number_value(), 4);
  EXPECT_EQ(valid->job().spec().quantize().format(), "gptq");
  request.mutable_spec()->mutable_quantize()->set_method("rtm");
  request.mutable_spec()->set_priority(9999);
  const absl::Status bad = Submit(request).status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FieldViolationsOf(bad).size(), 2u);
  EXPECT_THAT(std::string(bad.message()), HasSubstr("did you mean \"rtn\"?"));
  v1::ListJobsResponse listed;
  ASSERT_TRUE(
      Ask(&v1::JobService::Stub::ListJobs, jobs_.get(), v1::ListJobsRequest(), &listed).ok());
  EXPECT_EQ(listed.jobs_size(), 0);
}

TEST_F(ServerTest, PagesCoverEveryJobOnceAndForgedTokensAreRefused) {
  for (int i = 0; i < 25; ++i) ASSERT_TRUE(Submit(Request()).ok());
  std::set<std::string> names;
  v1::ListJobsRequest request;
  request.set_page_size(10);
  int pages = 0;
  do {
    v1::ListJobsResponse response;
    const absl::Status status =
        Ask(&v1::JobService::Stub::ListJobs, jobs_.get(), request, &response);
    ASSERT_TRUE(status.ok()) << status;
    for (const v1::Job& job : response.jobs()) EXPECT_TRUE(names.insert(job.name()).second);
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(names.size(), 25u);
  EXPECT_EQ(pages, 3);
  for (const char* token : {"x", "AAAA", "../.."}) {
    request.set_page_token(token);
    v1::ListJobsResponse response;
    EXPECT_EQ(Ask(&v1::JobService::Stub::ListJobs, jobs_.get(), request, &response).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ServerTest, AWatchResumesWithoutGapsAndEndsWithTheJob) {
  Register();
  const std::string name = Submit(Request())->job().name();
  std::vector<int64_t> sequences;
  std::thread watcher([&] {
    // Two streams, cut after three events.
    int64_t after = 0;
    for (const size_t stop : {size_t{3}, size_t{1000}}) {
      v1::WatchJobRequest request;
      request.set_name(name);
      request.set_after_sequence(after);
      grpc::ClientContext context;
      auto reader = jobs_->WatchJob(&context, request);
      v1::JobEvent event;
      while (sequences.size() < stop && reader->Read(&event)) {
        if (event.has_keep_alive()) continue;
        sequences.push_back(event.sequence());
        after = event.sequence();
      }
      if (stop == 3) context.TryCancel();
      const grpc::Status end = reader->Finish();
      if (stop != 3) {
        EXPECT_TRUE(end.ok()) << end.error_message();
      }
    }
  });
  const auto leased = Lease(absl::Seconds(5));
  ASSERT_TRUE(leased.ok() && leased->has_lease()) << leased.status();
  v1::ReportJobRequest report;
  *report.mutable_lease() = leased->lease();
  report.set_first_event(1);
  for (int i = 0; i < 20; ++i)
    report.add_events()->mutable_log()->set_text(absl::StrCat("line ", i));
  v1::ReportJobResponse reported;
  ASSERT_TRUE(Ask(&v1::WorkerService::Stub::ReportJob, workers_.get(), report, &reported).ok());
  EXPECT_EQ(reported.accepted_events(), 20);
  ASSERT_TRUE(Complete(leased->lease()).ok());
  watcher.join();
  ASSERT_GE(sequences.size(), 23u);
  for (size_t i = 0; i < sequences.size(); ++i)
    EXPECT_EQ(sequences[i], static_cast<int64_t>(i) + 1);
}

TEST_F(ServerTest, WatchersOfNothingAndBadNamesGetNotFound) {
  for (const char* name : {"tenants/default/jobs/nope", "tenants/default/jobs/../../etc/passwd", "",
                           "x/y", "tenants/default/jobs/a\nb"}) {
    v1::WatchJobRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    auto reader = jobs_->WatchJob(&context, request);
    v1::JobEvent event;
    EXPECT_FALSE(reader->Read(&event));
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::NOT_FOUND) << name;
    v1::GetJobRequest get;
    get.set_name(name);
    v1::Job job;
    EXPECT_EQ(Ask(&v1::JobService::Stub::GetJob, jobs_.get(), get, &job).code(),
              absl::StatusCode::kNotFound);
  }
}

TEST_F(ServerTest, ALongPollIsWokenByASubmitAndEndsEmptyHanded) {
  Register();
  EXPECT_FALSE(Lease(absl::ZeroDuration())->has_lease());
  const absl::Time start = absl::Now();
  EXPECT_FALSE(Lease(absl::Seconds(1))->has_lease());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(900));
  absl::StatusOr<v1::LeaseJobResponse> leased;
  std::thread poll([&] { leased = Lease(absl::Seconds(20)); });
  while (server_->queue()->Counters().jobs_submitted.empty()) ASSERT_TRUE(Submit(Request()).ok());
  poll.join();
  ASSERT_TRUE(leased.ok()) << leased.status();
  EXPECT_TRUE(leased->has_lease());
  EXPECT_EQ(leased->spec().quantize().method(), "rtn");
  v1::LeaseJobRequest stranger;
  stranger.set_worker("workers/stranger");
  stranger.set_instance_id("x");
  v1::LeaseJobResponse response;
  const absl::Status unknown =
      Ask(&v1::WorkerService::Stub::LeaseJob, workers_.get(), stranger, &response);
  EXPECT_EQ(ReasonOf(unknown), kReasonWorkerUnknown);
}

TEST_F(ServerTest, ACancelledJobsWorkerIsFenced) {
  Register();
  const std::string name = Submit(Request())->job().name();
  const v1::Lease lease = Lease(absl::Seconds(5))->lease();
  v1::Lease forged = lease;
  forged.set_fencing_token(lease.fencing_token() - 1);
  EXPECT_EQ(ReasonOf(Complete(forged).status()), kReasonLeaseLost);
  v1::CancelJobRequest cancel;
  cancel.set_name(name);
  v1::Job job;
  ASSERT_TRUE(Ask(&v1::JobService::Stub::CancelJob, jobs_.get(), cancel, &job).ok());
  EXPECT_EQ(job.state(), v1::JOB_STATE_CANCELLING);
  v1::ReportJobRequest report;
  *report.mutable_lease() = lease;
  report.set_first_event(1);
  v1::ReportJobResponse reported;
  ASSERT_TRUE(Ask(&v1::WorkerService::Stub::ReportJob, workers_.get(), report, &reported).ok());
  EXPECT_TRUE(reported.cancel_requested());
  v1::CompleteJobRequest complete;
  *complete.mutable_lease() = lease;
  complete.mutable_cancelled();
  v1::CompleteJobResponse completed;
  ASSERT_TRUE(
      Ask(&v1::WorkerService::Stub::CompleteJob, workers_.get(), complete, &completed).ok());
  EXPECT_EQ(completed.state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(server_->queue()->Counters().fenced_writes, 1);
}

TEST_F(ServerTest, OutputsAreBelievedWhenTheirBlobsAreThere) {
  Register();
  const std::string name = Submit(Request())->job().name();
  const v1::Lease lease = Lease(absl::Seconds(5))->lease();
  v1::Manifest output;
  v1::ManifestFile& file = *output.add_files();
  file.set_path("model.safetensors");
  file.mutable_blob()->set_sha256(Sha256Hex("weights"));
  file.mutable_blob()->set_size_bytes(7);
  const absl::Status missing = Complete(lease, output).status();
  EXPECT_EQ(ReasonOf(missing), kReasonBlobMissing);
  ASSERT_TRUE(Upload("weights")->complete());
  v1::Manifest evil = output;
  evil.mutable_files(0)->set_path("../../model.safetensors");
  EXPECT_EQ(Complete(lease, evil).status().code(), absl::StatusCode::kInvalidArgument);
  const auto done = Complete(lease, output);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(Complete(lease, output).ok());
  for (const std::string& parent : {std::string("tenants/default"), name}) {
    v1::ListArtifactsRequest list;
    list.set_parent(parent);
    v1::ListArtifactsResponse listed;
    ASSERT_TRUE(
        Ask(&v1::ArtifactService::Stub::ListArtifacts, artifacts_.get(), list, &listed).ok());
    ASSERT_EQ(listed.artifacts_size(), 1) << parent;
    EXPECT_EQ(listed.artifacts(0).job(), name);
    EXPECT_EQ(listed.artifacts(0).manifest().files(0).path(), "model.safetensors");
  }
}

TEST_F(ServerTest, UploadsResumeAtRandomCutsAndOverARestart) {
  const uint64_t seed = std::random_device{}();
  std::cerr << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  std::string data(1'500'000, '\0');
  for (char& c : data) c = static_cast<char>(random());
  for (int cut = 0; cut < 3; ++cut) {
    const auto part = Upload(data, 1 + random() % 400'000);
    ASSERT_TRUE(part.ok()) << part.status();
    EXPECT_FALSE(part->complete());
    if (cut == 1) Restart();
  }
  ASSERT_TRUE(Upload(data)->complete());
  EXPECT_EQ(Download(Sha256Hex(data)).value(), data);
  EXPECT_EQ(Download(Sha256Hex(data), 1'000'000, 10).value(), data.substr(1'000'000, 10));
  EXPECT_EQ(Download(Sha256Hex(data), 1'500'000).value(), "");
  EXPECT_EQ(Download(Sha256Hex(data), 1'500'001).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Download("../secret").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Download(Sha256Hex("nothing")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ServerTest, OversizedMessagesAreRefusedAndTheServerGoesOn) {
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->set_display_name(std::string(kMessageBytesMax + 1, 'x'));
  EXPECT_EQ(Submit(request).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Submit(Request()).ok());
}

TEST_F(ServerTest, DrainingSendsEveryoneHomeAndTheNextServerGoesOn) {
  Register();
  const std::string name = Submit(Request())->job().name();
  const v1::Lease lease = Lease(absl::Seconds(5))->lease();
  absl::Status poll_end, watch_end;
  bool said_draining = false;
  std::thread poll([&] {
    Register("w2");
    poll_end = Lease(absl::Seconds(20), "w2").status();
  });
  std::thread watch([&] {
    v1::WatchJobRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    auto reader = jobs_->WatchJob(&context, request);
    v1::JobEvent event;
    while (reader->Read(&event)) said_draining |= event.keep_alive().draining();
    watch_end = FromGrpcStatus(reader->Finish());
  });
  absl::SleepFor(absl::Milliseconds(500));
  server_->StartDraining();
  poll.join();
  watch.join();
  EXPECT_EQ(poll_end.code(), absl::StatusCode::kUnavailable) << poll_end;
  EXPECT_EQ(ReasonOf(watch_end), kReasonDraining) << watch_end;
  EXPECT_EQ(ReasonMetadata(watch_end, "after_sequence").empty(), false);
  EXPECT_TRUE(said_draining);
  const absl::Status refused = Submit(Request()).status();
  EXPECT_EQ(ReasonOf(refused), kReasonDraining) << refused;
  EXPECT_TRUE(RetryAfterOf(refused).has_value());
  // What runs may still end.
  Restart();
  EXPECT_EQ(Complete(lease)->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(ServerTest, StalledWatchersAreLetGo) {
  options_.times.stalled = absl::Seconds(1);
  options_.times.reset = absl::Seconds(3);
  Restart();
  Register();
  const std::string name = Submit(Request())->job().name();
  const v1::Lease lease = Lease(absl::Seconds(5))->lease();
  int64_t next = 1;
  for (int i = 0; i < 60; ++i) {
    v1::ReportJobRequest report;
    *report.mutable_lease() = lease;
    report.set_first_event(next);
    for (int j = 0; j < 20; ++j, ++next)
      report.add_events()->mutable_log()->set_text(std::string(15'000, 'x'));
    v1::ReportJobResponse reported;
    const absl::Status status =
        Ask(&v1::WorkerService::Stub::ReportJob, workers_.get(), report, &reported);
    ASSERT_TRUE(status.ok()) << status;
  }
  v1::WatchJobRequest request;
  request.set_name(name);
  grpc::ClientContext context;
  auto reader = jobs_->WatchJob(&context, request);
  v1::JobEvent event;
  ASSERT_TRUE(reader->Read(&event));
  absl::SleepFor(absl::Milliseconds(1700));
  int64_t last = event.sequence();
  while (reader->Read(&event)) {
    EXPECT_EQ(event.sequence(), last + 1);
    last = event.sequence();
  }
  const absl::Status end = FromGrpcStatus(reader->Finish());
  EXPECT_EQ(ReasonOf(end), kReasonSlowConsumer) << end;
  EXPECT_LE(std::stoll(ReasonMetadata(end, "after_sequence")), last);
}

TEST_F(ServerTest, ASweepsWatchTellsItsJobsEventsAndResumesByToken) {
  Register();
  v1::SubmitSweepRequest request;
  request.mutable_spec()->add_models("/models/tiny");
  v1::VariantSpec& variant = *request.mutable_spec()->add_variants();
  variant.set_method("rtn");
  google::protobuf::ListValue& bits =
      *(*variant.mutable_options()->mutable_fields())["bits"].mutable_list_value();
  for (const int n : {8, 4}) bits.add_values()->set_number_value(n);
  v1::SubmitSweepResponse submitted;
  const absl::Status status =
      Ask(&v1::SweepService::Stub::SubmitSweep, sweeps_.get(), request, &submitted);
  ASSERT_TRUE(status.ok()) << status;

  // Every stored event of the sweep, one stream a `batch` of them, each resumed where the last
  // stopped.
  const auto read_all = [&](int batch) {
    std::vector<std::string> seen;
    v1::WatchSweepRequest watch;
    watch.set_name(submitted.sweep().name());
    for (bool more = true; more;) {
      grpc::ClientContext context;
      auto reader = sweeps_->WatchSweep(&context, watch);
      v1::SweepEvent event;
      int read = 0;
      while (read < batch && reader->Read(&event)) {
        if (event.event().has_keep_alive()) continue;
        seen.push_back(absl::StrCat(event.event().job(), " ", event.event().sequence()));
        watch.set_resume_token(event.resume_token());
        ++read;
      }
      more = read == batch;
      if (more) {
        context.TryCancel();
        reader->Finish();
        continue;
      }
      const absl::Status end = FromGrpcStatus(reader->Finish());
      EXPECT_TRUE(end.ok()) << end;
    }
    return seen;
  };
  v1::CancelSweepRequest cancel;
  cancel.set_name(submitted.sweep().name());
  v1::Sweep ended;
  ASSERT_TRUE(Ask(&v1::SweepService::Stub::CancelSweep, sweeps_.get(), cancel, &ended).ok());
  const std::vector<std::string> whole = read_all(1000);
  EXPECT_GE(whole.size(), 2u * submitted.sweep().cells_size()) << "created and cancelled, each job";
  EXPECT_EQ(std::set<std::string>(whole.begin(), whole.end()).size(), whole.size());
  EXPECT_EQ(read_all(3), whole);

  v1::WatchSweepRequest forged;
  forged.set_name(submitted.sweep().name());
  forged.set_resume_token("forged");
  grpc::ClientContext context;
  auto reader = sweeps_->WatchSweep(&context, forged);
  v1::SweepEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(FromGrpcStatus(reader->Finish()).code(), absl::StatusCode::kInvalidArgument);
}

// Sends one message to a method without its generated code and returns the first answer.
absl::StatusOr<std::string> CallRaw(const std::string& address, const std::string& method,
                                    const std::string& request) {
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  grpc::CompletionQueue queue;
  const auto done = [&] {
    void* tag;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  done();
  const grpc::Slice slice(request);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  done();
  grpc::ByteBuffer buffer;
  call->Read(&buffer, nullptr);
  const bool answered = done();
  grpc::Status status;
  call->Finish(&status, nullptr);
  done();
  if (!answered) return FromGrpcStatus(status);
  grpc::Slice answer;
  if (!buffer.DumpToSingleSlice(&answer).ok()) return absl::InternalError("no single slice");
  return std::string(answer.begin(), answer.end());
}

TEST_F(ServerTest, HealthFollowsTheDrain) {
  const std::string check = "/grpc.health.v1.Health/Check";
  const std::string serving("\x08\x01", 2), not_serving("\x08\x02", 2);
  const std::string jobs = "\x0a\x14quantd.v1.JobService";  // HealthCheckRequest.service.
  EXPECT_EQ(CallRaw(server_->address(), check, "").value_or("?"), serving);
  EXPECT_EQ(CallRaw(server_->address(), check, jobs).value_or("?"), serving);
  EXPECT_EQ(CallRaw(server_->address(), check, "\x0a\x05other").status().code(),
            absl::StatusCode::kNotFound);
  server_->StartDraining();
  EXPECT_EQ(CallRaw(server_->address(), check, jobs).value_or("?"), not_serving);
}

TEST_F(ServerTest, ReflectionIsThereWhenAskedFor) {
  const std::string info = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const std::string list_services = "\x3a\x01*";
  EXPECT_EQ(CallRaw(server_->address(), info, list_services).status().code(),
            absl::StatusCode::kUnimplemented);
  options_.reflection = true;
  Restart();
  const auto answer = CallRaw(server_->address(), info, list_services);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(*answer, HasSubstr("quantd.v1.WorkerService"));
}

// The body of http://{address}/metrics.
std::string Scrape(const std::string& address) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char buffer[65536];
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;)
      answer.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return answer;
}

TEST_F(ServerTest, AScrapeCountsWhatHappened) {
  options_.metrics_listen = "127.0.0.1:0";
  Restart();
  Register();
  EXPECT_THAT(Scrape(server_->metrics_address()),
              HasSubstr("quantd_jobs_finished_total{kind=\"quantize\",outcome=\"failed\"} 0"))
      << "every series is there from the start";
  ASSERT_TRUE(Submit(Request("once")).ok());
  ASSERT_TRUE(Submit(Request("once")).ok());
  ASSERT_TRUE(Submit(Request()).ok());
  ASSERT_TRUE(Complete(Lease(absl::Seconds(5))->lease()).ok());
  EXPECT_FALSE(Submit({}).ok());
  const std::string scrape = Scrape(server_->metrics_address());
  for (const char* line :
       {"quantd_jobs{kind=\"quantize\",state=\"queued\"} 1\n",
        "quantd_jobs{kind=\"quantize\",state=\"succeeded\"} 1\n",
        "quantd_jobs{kind=\"evaluate\",state=\"queued\"} 0\n",
        "quantd_jobs_submitted_total{kind=\"quantize\"} 2\n",
        "quantd_jobs_finished_total{kind=\"quantize\",outcome=\"succeeded\"} 1\n",
        "quantd_leases_granted_total 1\n", "quantd_idempotent_replays_total 1\n",
        "quantd_duplicate_completions_total 0\n", "quantd_workers{state=\"idle\"} 1\n",
        "quantd_job_run_seconds_count{kind=\"quantize\"} 1\n", "quantd_build_info{version="}) {
    EXPECT_THAT(scrape, HasSubstr(line));
  }
  EXPECT_THAT(scrape,
              testing::ContainsRegex("grpc_server_handled_total\\{[^}]*SubmitJob[^}]*\\} [13]"));
}

TEST_F(ServerTest, ATenantsLimitRefusesWithWordsAndIsCounted) {
  options_.metrics_listen = "127.0.0.1:0";
  options_.tenants.others.queued_max = 1;
  options_.tenants.others.artifact_bytes_max = 10;
  Restart();
  Register();
  ASSERT_TRUE(Submit(Request()).ok());
  const absl::Status refused = Submit(Request()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_EQ(ReasonOf(refused), kReasonQuotaExceeded);
  EXPECT_EQ(ReasonMetadata(refused, "used"), "1");
  EXPECT_TRUE(RetryAfterOf(refused).has_value());
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1 of at most 1 jobs wait (queued-max)"));

  ASSERT_TRUE(Upload("eleven byte").ok());
  v1::CreateArtifactRequest create;
  create.set_parent("tenants/default");
  v1::ManifestFile& file = *create.mutable_manifest()->add_files();
  file.set_path("data");
  file.mutable_blob()->set_sha256(Sha256Hex("eleven byte"));
  file.mutable_blob()->set_size_bytes(11);
  v1::Artifact artifact;
  const absl::Status large =
      Ask(&v1::ArtifactService::Stub::CreateArtifact, artifacts_.get(), create, &artifact);
  EXPECT_EQ(ReasonMetadata(large, "limit"), "artifact-gib-max") << large;
  const std::string scrape = Scrape(server_->metrics_address());
  for (const char* line :
       {"quantd_quota_refusals_total{limit=\"queued-max\"} 1\n",
        "quantd_quota_refusals_total{limit=\"artifact-gib-max\"} 1\n",
        "quantd_garbage_removed_total{what=\"blob\"} 0\n", "quantd_jobs_removed_total 0\n"}) {
    EXPECT_THAT(scrape, HasSubstr(line));
  }
}

TEST_F(ServerTest, ASecondServerOnThePortOrTheDatabaseIsRefused) {
  ServerOptions same_database = options_;
  const auto database = Server::Start(same_database);
  EXPECT_FALSE(database.ok());
  ServerOptions same_port = options_;
  same_port.data = folder_ + "/other";
  same_port.listen = server_->address();
  const auto port = Server::Start(same_port);
  ASSERT_FALSE(port.ok());
  EXPECT_THAT(std::string(port.status().message()), HasSubstr("--listen"));
}

}  // namespace
}  // namespace quantd
