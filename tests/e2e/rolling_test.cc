// Scheduler and workers are restarted one after the other, as an upgrade does it, while jobs run:
// everyone leaves with 0 within his grace, no job fails although none may be tried twice, and
// watches go on where they were. QUANTD_ROLLING_RESTARTS sets the restarts of each (the full test:
// 50), QUANTD_CHAOS_SEED repeats a run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "tests/e2e/load.h"
#include "tests/e2e/service.h"

namespace quantd::e2e {
namespace {

uint64_t Restarts() { return FromEnvironment("QUANTD_ROLLING_RESTARTS", 3); }

TEST(Rolling, ASchedulerThatIsRestartedUnderLoadFailsNoJob) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "");
  ASSERT_FALSE(HasFailure());
  Load load({scheduler.address()}, seed, {.steady = true, .step_ms = 20});
  for (uint64_t i = 0; i < Restarts() && !HasFailure(); ++i) {
    absl::SleepFor(absl::Milliseconds(100 + random() % 500));
    EXPECT_EQ(scheduler.Stop(), 0) << scheduler.Log();
    scheduler.Start();
  }
  EXPECT_TRUE(load.Finish(absl::Seconds(60))) << "jobs did not end\n" << scheduler.Log();
  EXPECT_THAT(load.history().Broken(load.client(), /*all_submitted=*/true), testing::IsEmpty());
  v1::ListJobsRequest list;
  list.set_page_size(1000);
  v1::ListJobsResponse jobs;
  Client client = load.client();
  ASSERT_TRUE(client.Ask<v1::JobService>(&v1::JobService::Stub::ListJobs, list, &jobs).ok());
  for (const v1::Job& job : jobs.jobs()) {
    EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.ShortDebugString();
    EXPECT_EQ(job.attempt(), 1) << job.ShortDebugString();
  }
  std::printf("%s, %lld watches resumed\n", load.history().Summary().c_str(),
              static_cast<long long>(load.resumed()));
}

TEST(Rolling, WorkersAndSchedulerThatAreRestartedAtWorkConsumeNoAttempt) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  Service service({.workers = 2, .lease_seconds = 5});
  v1::JobSpec spec = QuantizeTiny("rtn", R"({"bits": 4, "group_size": 128})");
  spec.mutable_retry()->set_max_attempts(1);
  const v1::Job first = service.Await(service.Submit(spec, "undisturbed"), absl::Minutes(2));
  ASSERT_EQ(first.state(), v1::JOB_STATE_SUCCEEDED) << first.ShortDebugString() << service.Logs();
  std::vector<std::string> jobs;
  for (uint64_t i = 0; i < Restarts() && !HasFailure(); ++i) {
    jobs.push_back(service.Submit(spec, absl::StrCat("rolling-", i)));
    absl::SleepFor(absl::Milliseconds(random() % 1500));
    const int index = static_cast<int>(i % 2);
    service.worker(index).Signal(SIGTERM);
    EXPECT_EQ(service.worker(index).Wait(absl::Seconds(60)), 0) << service.Logs();
    service.StartWorker(index);
    service.scheduler().Signal(SIGTERM);
    EXPECT_EQ(service.scheduler().Wait(absl::Seconds(30)), 0) << service.Logs();
    service.StartScheduler();
  }
  for (const std::string& job : jobs) {
    const v1::Job done = service.Await(job, absl::Minutes(5));
    EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString() << service.Logs();
    EXPECT_EQ(WeightDigests(done), WeightDigests(first));
    ExpectOneEnd(service.Events(job), job);
  }
  std::printf("%zu jobs\n", jobs.size());
}

}  // namespace
}  // namespace quantd::e2e
