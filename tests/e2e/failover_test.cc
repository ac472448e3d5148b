// Two schedulers on one PostgreSQL database, killed with SIGKILL in turn while sweeps run: nothing
// that was accepted is lost, nothing is completed twice, and a watcher that goes on at the other
// scheduler misses nothing. The workers are threads of this test, so that many jobs pass through in
// seconds. QUANTD_FAILOVER_KILLS sets the kills (the full test: 50), QUANTD_CHAOS_SEED repeats a
// run.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "server/store/testing/postgres_server.h"
#include "tests/e2e/load.h"

namespace quantd::e2e {
namespace {

constexpr int kWorkers = 4;
constexpr int kSweeps = 3;
constexpr int kVariants = 8;

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
void CheckEvents(const std::vector<v1::JobEvent>& events) {
  std::map<std::string, int64_t> last;
  std::map<std::string, int> ends;
  for (const v1::JobEvent& event : events) {
    EXPECT_EQ(event.sequence(), last[event.job()] + 1) << event.job();
    last[event.job()] = event.sequence();
    ends[event.job()] += event.state().state() == v1::JOB_STATE_SUCCEEDED;
  }
  for (const auto& [job, count] : ends) EXPECT_EQ(count, 1) << job;
}

TEST(Failover, TwoSchedulersOnOneDatabaseLoseAndDoubleNothing) {
  const uint64_t seed = ChaosSeed();
  const uint64_t kills = FromEnvironment("QUANTD_FAILOVER_KILLS", 4);
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
    threads.emplace_back([&, i] {
      FakeWorker(i, addresses, seed + static_cast<uint64_t>(i),
                 {.steady = true, .outputs = false, .step_ms = 40}, &history, &stop)
          .Run();
    });
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
  for (const auto& one : events) CheckEvents(one);
  EXPECT_THAT(history.Broken(client, /*all_submitted=*/false), testing::IsEmpty());
  std::printf("%d jobs, %s\n", jobs.jobs_size(), history.Summary().c_str());
}

}  // namespace
}  // namespace quantd::e2e
