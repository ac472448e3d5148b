// Two schedulers on one PostgreSQL database, killed with SIGKILL in turn while sweeps run: nothing
// that was accepted is lost, nothing is completed twice, and a watcher that goes on at the other
// scheduler misses nothing. The workers are threads of this test, so that many jobs pass through in
// seconds. QUANTD_FAILOVER_KILLS sets the kills (the full test: 50), QUANTD_CHAOS_SEED repeats a
// run.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"
#include "server/store/testing/postgres_server.h"
#include "tests/e2e/processes.h"

namespace quantd::e2e {
namespace {

constexpr int kWorkers = 4;
constexpr int kSweeps = 3;
constexpr int kVariants = 8;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

// A scheduler that comes back on the address it had.
class Scheduler {
 public:
  Scheduler(std::string folder, std::string store)
      : folder_(std::move(folder)), store_(std::move(store)) {
    Start();
  }
  void Start() {
    const std::string ready = folder_ + "-ready.json";
    unlink(ready.c_str());
    process_ = std::make_unique<Process>(
        std::vector<std::string>{Program("quantd"), "--listen", address_, "--metrics-listen", "off",
                                 "--data", folder_, "--store", store_, "--ready-file", ready,
                                 "--lease-seconds", "3"},
        folder_ + ".log");
    for (int i = 0; i < 600 && !FileExists(ready); ++i) {
      ASSERT_TRUE(process_->Running()) << process_->Log();
      absl::SleepFor(absl::Milliseconds(50));
    }
    const auto read = nlohmann::json::parse(ReadFile(ready).value_or(""), nullptr, false);
    ASSERT_TRUE(read.is_object()) << process_->Log();
    address_ = read.value("listen", "");
  }
  void Kill() {
    process_->Signal(SIGKILL);
    process_->Wait(absl::Seconds(5));
  }
  const std::string& address() const { return address_; }
  std::string Log() const { return process_->Log(); }

 private:
  const std::string folder_;
  const std::string store_;
  std::string address_ = "127.0.0.1:0";
  std::unique_ptr<Process> process_;
};

// What a client of several schedulers does: the same request again at the next one, until somebody
// answers.
class Client {
 public:
  explicit Client(const std::vector<std::string>& addresses) {
    for (const std::string& address : addresses) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
      arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      channels_.push_back(
          grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    }
  }
  const std::shared_ptr<grpc::Channel>& channel() const { return channels_[current_]; }
  void Next() { current_ = (current_ + 1) % channels_.size(); }

  template <typename Service, typename Method, typename Request, typename Response>
  grpc::Status Ask(Method method, const Request& request, Response* response) {
    grpc::Status status;
    for (int i = 0; i < 400; ++i) {
      auto stub = Service::NewStub(channel());
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
      response->Clear();
      status = ((*stub).*method)(&context, request, response);
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE &&
          status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
        return status;
      }
      Next();
      absl::SleepFor(absl::Milliseconds(25));
    }
    return status;
  }

 private:
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  size_t current_ = 0;
};

// What the workers were told, for the check at the end.
struct History {
  absl::Mutex mutex;
  // By job: the tokens whose success was accepted, and the last token that was granted.
  std::map<std::string, std::set<int64_t>> accepted ABSL_GUARDED_BY(mutex);
  std::map<std::string, int64_t> granted ABSL_GUARDED_BY(mutex);
  int64_t leases ABSL_GUARDED_BY(mutex) = 0;
  int64_t lost ABSL_GUARDED_BY(mutex) = 0;
};

class FakeWorker {
 public:
  FakeWorker(int index, const std::vector<std::string>& addresses, uint64_t seed, History* history)
      : name_(absl::StrCat("workers/fake-", index)),
        client_(addresses),
        random_(seed),
        history_(*history) {}

  void Run(const std::atomic<bool>& stop) {
    Register();
    for (int poll = 0; !stop; ++poll) {
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

 private:
  void Register() {
    v1::RegisterWorkerRequest request;
    v1::Worker& worker = *request.mutable_worker();
    worker.set_name(name_);
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
    request.set_instance_id(name_.substr(8));
    v1::RegisterWorkerResponse response;
    const grpc::Status status = client_.Ask<v1::WorkerService>(
        &v1::WorkerService::Stub::RegisterWorker, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }

  void Work(const v1::Lease& lease) {
    {
      absl::MutexLock lock(&history_.mutex);
      ++history_.leases;
      EXPECT_GE(lease.fencing_token(), history_.granted[lease.job()]) << lease.job();
      history_.granted[lease.job()] = lease.fencing_token();
    }
    const int steps = 1 + static_cast<int>(random_() % 4);
    for (int step = 0; step < steps; ++step) {
      absl::SleepFor(absl::Milliseconds(20 + random_() % 60));
      v1::ReportJobRequest report;
      *report.mutable_lease() = lease;
      report.set_first_event(step + 1);
      report.add_events()->mutable_log()->set_text(absl::StrCat("step ", step));
      v1::ReportJobResponse response;
      if (!client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::ReportJob, report, &response)
               .ok()) {
        return Lost();
      }
    }
    v1::CompleteJobRequest complete;
    *complete.mutable_lease() = lease;
    complete.mutable_success();
    v1::CompleteJobResponse response;
    const grpc::Status status =
        client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::CompleteJob, complete, &response);
    if (!status.ok()) return Lost();
    absl::MutexLock lock(&history_.mutex);
    history_.accepted[lease.job()].insert(lease.fencing_token());
  }
  void Lost() {
    absl::MutexLock lock(&history_.mutex);
    ++history_.lost;
  }

  const std::string name_;
  Client client_;
  std::mt19937_64 random_;
  History& history_;
};

v1::SubmitSweepRequest SweepRequest(int number) {
  v1::SubmitSweepRequest request;
  request.set_request_id(absl::StrCat("sweep-", number));
  v1::SweepSpec& spec = *request.mutable_spec();
  spec.add_models("/models/tiny");
  for (int i = 0; i < kVariants; ++i) {
    v1::VariantSpec& variant = *spec.add_variants();
    variant.set_method("rtn");
    (*variant.mutable_options()->mutable_fields())["bits"].set_number_value(i + 1);
  }
  spec.add_tasks()->set_name("perplexity");
  spec.mutable_retry()->set_max_attempts(100);
  spec.mutable_retry()->mutable_backoff()->set_nanos(50'000'000);
  return request;
}

// Reads a sweep's events to the end, going on at the next scheduler when one is gone.
void WatchToTheEnd(Client client, const std::string& sweep, std::vector<v1::JobEvent>* events) {
  std::string token;
  for (int i = 0; i < 2000; ++i) {
    v1::WatchSweepRequest request;
    request.set_name(sweep);
    request.set_resume_token(token);
    grpc::ClientContext context;
    auto stub = v1::SweepService::NewStub(client.channel());
    auto reader = stub->WatchSweep(&context, request);
    v1::SweepEvent event;
    while (reader->Read(&event)) {
      if (!event.resume_token().empty()) token = event.resume_token();
      if (event.event().sequence() > 0) events->push_back(event.event());
    }
    if (reader->Finish().ok()) return;
    client.Next();
    absl::SleepFor(absl::Milliseconds(50));
  }
  ADD_FAILURE() << "the watch of " << sweep << " did not end";
}

// Every job's events without gap or repetition, one success each.
void CheckEvents(const std::vector<v1::JobEvent>& events, History* history) {
  std::map<std::string, int64_t> last;
  std::map<std::string, int> ends;
  for (const v1::JobEvent& event : events) {
    EXPECT_EQ(event.sequence(), last[event.job()] + 1) << event.job();
    last[event.job()] = event.sequence();
    ends[event.job()] += event.state().state() == v1::JOB_STATE_SUCCEEDED;
  }
  absl::MutexLock lock(&history->mutex);
  for (const auto& [job, count] : ends) {
    EXPECT_EQ(count, 1) << job;
    // The answer to the one that was accepted may have died with its scheduler; two never pass.
    EXPECT_LE(history->accepted[job].size(), 1u) << job;
  }
}

TEST(Failover, TwoSchedulersOnOneDatabaseLoseAndDoubleNothing) {
  const uint64_t seed = FromEnvironment("QUANTD_CHAOS_SEED", std::random_device()());
  const uint64_t kills = FromEnvironment("QUANTD_FAILOVER_KILLS", 4);
  std::printf("QUANTD_CHAOS_SEED=%llu\n", static_cast<unsigned long long>(seed));
  SCOPED_TRACE(absl::StrCat("QUANTD_CHAOS_SEED=", seed));
  std::mt19937_64 random(seed);
  PostgresServer database;
  const std::string store = database.NewDatabase();
  TemporaryFolder folder;
  std::vector<std::unique_ptr<Scheduler>> schedulers;
  std::vector<std::string> addresses;
  for (const char* name : {"a", "b"}) {
    schedulers.push_back(std::make_unique<Scheduler>(folder / name, store));
    ASSERT_FALSE(HasFatalFailure());
    addresses.push_back(schedulers.back()->address());
  }

  History history;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < kWorkers; ++i) {
    threads.emplace_back(
        [&, i] { FakeWorker(i, addresses, seed + static_cast<uint64_t>(i), &history).Run(stop); });
  }
  Client client(addresses);
  std::vector<std::vector<v1::JobEvent>> events(std::max<uint64_t>(kSweeps, kills / 2));
  std::vector<std::thread> watchers;
  std::set<std::string> sweeps;
  for (size_t i = 0; i < events.size(); ++i) {
    v1::SubmitSweepResponse response;
    const grpc::Status status = client.Ask<v1::SweepService>(
        &v1::SweepService::Stub::SubmitSweep, SweepRequest(static_cast<int>(i)), &response);
    ASSERT_TRUE(status.ok()) << status.error_message() << schedulers[0]->Log();
    sweeps.insert(response.sweep().name());
    watchers.emplace_back(WatchToTheEnd, Client(addresses), response.sweep().name(), &events[i]);
  }
  for (uint64_t i = 0; i < kills; ++i) {
    absl::SleepFor(absl::Milliseconds(200 + random() % 800));
    Scheduler& victim = *schedulers[random() % 2];
    victim.Kill();
    absl::SleepFor(absl::Milliseconds(random() % 500));
    if (i % 4 == 3) {
      database.Kill();
      database.Start();
    }
    victim.Start();
    if (HasFatalFailure()) break;
  }
  for (std::thread& watcher : watchers) watcher.join();
  stop = true;
  for (std::thread& thread : threads) thread.join();

  v1::ListJobsRequest list;
  list.set_page_size(1000);
  v1::ListJobsResponse jobs;
  ASSERT_TRUE(client.Ask<v1::JobService>(&v1::JobService::Stub::ListJobs, list, &jobs).ok());
  // Per sweep: the baseline's evaluation, four jobs a variant, the report.
  EXPECT_EQ(static_cast<size_t>(jobs.jobs_size()), events.size() * (4 * kVariants + 2));
  for (const v1::Job& job : jobs.jobs()) {
    EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.ShortDebugString();
  }
  EXPECT_EQ(sweeps.size(), events.size());
  for (const auto& one : events) CheckEvents(one, &history);
  absl::MutexLock lock(&history.mutex);
  std::printf("%d jobs, %lld leases, %lld lost\n", jobs.jobs_size(),
              static_cast<long long>(history.leases), static_cast<long long>(history.lost));
}

}  // namespace
}  // namespace quantd::e2e
