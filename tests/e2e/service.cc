// Starts the programs of this build on loopback with their state in a temporary folder.
#include "tests/e2e/service.h"

#include <arpa/inet.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/file.h"
#include "base/http.h"

namespace quantd::e2e {
namespace {

// A port that was free a moment ago; the scheduler must come back on the same one after a kill.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  QD_CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0);
  QD_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(fd);
  return ntohs(address.sin_port);
}

std::unique_ptr<grpc::ClientContext> Context(absl::Duration limit = absl::Seconds(5)) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(absl::ToChronoTime(absl::Now() + limit));
  return context;
}

bool Ended(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED || state == v1::JOB_STATE_SKIPPED;
}

}  // namespace

Service::Service(const Options& options)
    : options_(options), address_(absl::StrCat("127.0.0.1:", FreePort())) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  jobs_ = v1::JobService::NewStub(
      grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments));
  StartScheduler();
  workers_.resize(static_cast<size_t>(options.workers));
  for (int i = 0; i < options.workers; ++i) StartWorker(i);
}

void Service::StartScheduler() {
  if (scheduler_ != nullptr && scheduler_->Running()) return;
  const std::string ready = folder_ / "ready.json";
  unlink(ready.c_str());
  scheduler_ = std::make_unique<Process>(
      std::vector<std::string>{Program("quantd"), "--listen", address_, "--metrics-listen",
                               "127.0.0.1:0", "--data", folder_ / "scheduler", "--ready-file",
                               ready, "--lease-seconds", absl::StrCat(options_.lease_seconds)},
      folder_ / "scheduler.log", Environment("scheduler"));
  for (int i = 0; i < 600 && !FileExists(ready); ++i) {
    ASSERT_TRUE(scheduler_->Running()) << scheduler_->Log();
    absl::SleepFor(absl::Milliseconds(50));
  }
  ASSERT_TRUE(FileExists(ready)) << scheduler_->Log();
}

void Service::StartWorker(int index) {
  auto& worker = workers_[static_cast<size_t>(index)];
  if (worker != nullptr && worker->Running()) return;
  const std::string name = absl::StrCat("worker-", index);
  std::vector<std::string> argv = {
      Program("quant-worker"), "--scheduler", address_, "--name", name, "--data", folder_ / name};
  // A confined engine loads the library too.
  if (name == options_.preloaded) argv.insert(argv.end(), {"--readable", options_.preload});
  if (!options_.confined) argv.insert(argv.end(), {"--confine", "off"});
  worker = std::make_unique<Process>(argv, folder_ / absl::StrCat(name, ".log"), Environment(name));
}

std::map<std::string, std::string> Service::Environment(const std::string& process) const {
  if (process != options_.preloaded) return {};
  std::map<std::string, std::string> environment = environment_;
  environment["LD_PRELOAD"] = options_.preload;
  environment["QUANTD_FAULT_FOLDER"] = folder_ / process;
  return environment;
}

std::vector<pid_t> Service::Engines(int index) {
  std::vector<pid_t> engines;
  for (const pid_t pid : Descendants(worker(index).pid())) {
    if (ProgramName(pid) == "quant-engine") engines.push_back(pid);
  }
  return engines;
}

std::string Service::Submit(const v1::JobSpec& spec, const std::string& request_id) {
  v1::SubmitJobRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(request_id);
  grpc::Status status;
  for (int i = 0; i < 200; ++i) {
    v1::SubmitJobResponse response;
    status = jobs_->SubmitJob(Context().get(), request, &response);
    if (status.ok()) return response.job().name();
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE &&
        status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
      break;
    }
    StartScheduler();
    absl::SleepFor(absl::Milliseconds(100));
  }
  ADD_FAILURE() << "submit: " << status.error_message() << "\n" << Logs();
  return "";
}

std::optional<v1::Job> Service::Get(const std::string& job) {
  v1::GetJobRequest request;
  request.set_name(job);
  v1::Job response;
  if (!jobs_->GetJob(Context().get(), request, &response).ok()) return std::nullopt;
  return response;
}

v1::Job Service::Await(const std::string& job, absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (absl::Now() < end) {
    const std::optional<v1::Job> found = Get(job);
    if (found.has_value() && Ended(found->state())) return *found;
    absl::SleepFor(absl::Milliseconds(100));
  }
  const std::optional<v1::Job> found = Get(job);
  ADD_FAILURE() << job << " did not end within " << absl::FormatDuration(limit) << ": "
                << (found.has_value() ? found->ShortDebugString() : "not readable") << "\n"
                << Logs();
  return found.value_or(v1::Job());
}

std::vector<v1::JobEvent> Service::Events(const std::string& job) {
  v1::WatchJobRequest request;
  request.set_name(job);
  request.set_snapshot(true);
  auto context = Context(absl::Seconds(30));
  auto reader = jobs_->WatchJob(context.get(), request);
  std::vector<v1::JobEvent> events;
  v1::JobEvent event;
  while (reader->Read(&event)) {
    if (event.sequence() > 0) events.push_back(event);
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  return events;
}

int64_t Service::Metric(const std::string& name, const std::string& label) {
  const auto ready =
      nlohmann::json::parse(ReadFile(folder_ / "ready.json").value_or(""), nullptr, false);
  if (!ready.is_object()) return -1;
  HttpRequest request = {.url = absl::StrCat("http://", ready.value("metrics", ""), "/metrics")};
  const auto scrape = PerformHttp(request);
  if (!scrape.ok()) return -1;
  int64_t sum = -1;
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(scrape->body, absl::ByChar('\n')))) {
    int64_t value = 0;
    if ((absl::StartsWith(line, name + " ") || absl::StartsWith(line, name + "{")) &&
        absl::StrContains(line, label) && absl::SimpleAtoi(line.substr(line.rfind(' ')), &value)) {
      sum = std::max<int64_t>(sum, 0) + value;
    }
  }
  return sum;
}

std::string Service::Logs() const {
  std::string text;
  for (const char* name : {"scheduler.log", "worker-0.log", "worker-1.log"}) {
    const std::string log = ReadFile(folder_ / name).value_or("");
    absl::StrAppend(&text, "--- end of ", name, "\n",
                    log.substr(log.size() > 4000 ? log.size() - 4000 : 0));
  }
  return text;
}

v1::JobSpec QuantizeTiny(const std::string& method, const std::string& options) {
  v1::JobSpec spec;
  v1::QuantizeSpec& quantize = *spec.mutable_quantize();
  quantize.set_model(Source("models/tiny-6m"));
  quantize.set_method(method);
  QD_CHECK(google::protobuf::util::JsonStringToMessage(options, quantize.mutable_options()).ok());
  quantize.mutable_calibration()->set_source(Source("examples/data/calibration.jsonl"));
  quantize.mutable_calibration()->set_sequences(32);
  quantize.mutable_calibration()->set_sequence_length(256);
  spec.mutable_runtime()->set_device("cpu");
  spec.set_fresh(true);  // The same job again and again is what these tests are about.
  return spec;
}

void ExpectOneEnd(const std::vector<v1::JobEvent>& events, const std::string& job) {
  int64_t sequence = 0;
  int ends = 0;
  int attempt = 0;
  for (const v1::JobEvent& event : events) {
    EXPECT_EQ(event.sequence(), ++sequence) << job;
    EXPECT_GE(event.attempt(), attempt) << job << ": an older attempt wrote after a newer one";
    attempt = event.attempt();
    if (event.has_state() && event.state().state() == v1::JOB_STATE_SUCCEEDED) ++ends;
  }
  EXPECT_EQ(ends, 1) << job;
}

std::map<std::string, std::string> WeightDigests(const v1::Job& job) {
  std::map<std::string, std::string> digests;
  for (const v1::ManifestFile& file : job.output().files()) {
    if (absl::EndsWith(file.path(), ".safetensors")) digests[file.path()] = file.blob().sha256();
  }
  return digests;
}

}  // namespace quantd::e2e
