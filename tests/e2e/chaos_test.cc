// kill -9 of scheduler, worker and engine at random moments: no accepted job is lost, none
// completed twice, and resumed results are the same bytes. QUANTD_CHAOS_KILLS sets the kills of
// each program (the full test: 30), QUANTD_ZOMBIES how many workers wake too late (100),
// QUANTD_CHAOS_SEED repeats a run.
#include <gtest/gtest.h>
#include <signal.h>

#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/e2e/load.h"
#include "tests/e2e/service.h"

namespace quantd::e2e {
namespace {

struct Work {
  v1::JobSpec spec;
  std::map<std::string, std::string> expected;
};

// Two kinds of work, each with the digests of an undisturbed run.
std::vector<Work> Undisturbed(Service& service) {
  std::vector<Work> kinds;
  kinds.push_back({QuantizeTiny("gptq", R"({"bits": 4, "group_size": 128})"), {}});
  kinds.push_back({QuantizeTiny("rtn", R"({"bits": 4, "group_size": 128})"), {}});
  for (size_t i = 0; i < kinds.size(); ++i) {
    // A crash consumes an attempt, and one job may be hit often.
    kinds[i].spec.mutable_retry()->set_max_attempts(100);
    kinds[i].spec.mutable_retry()->mutable_backoff()->set_nanos(100'000'000);
    const std::string job = service.Submit(kinds[i].spec, absl::StrCat("undisturbed-", i));
    const v1::Job done = service.Await(job, absl::Minutes(2));
    EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString() << service.Logs();
    kinds[i].expected = WeightDigests(done);
    EXPECT_FALSE(kinds[i].expected.empty());
  }
  return kinds;
}

TEST(Chaos, KilledAtRandomMomentsNothingIsLostOrDoneTwice) {
  const uint64_t seed = ChaosSeed();
  const uint64_t kills = FromEnvironment("QUANTD_CHAOS_KILLS", 2);
  SCOPED_TRACE(absl::StrCat("QUANTD_CHAOS_SEED=", seed));
  std::mt19937_64 random(seed);

  Service service({.workers = 2, .lease_seconds = 2});
  const std::vector<Work> kinds = Undisturbed(service);
  ASSERT_FALSE(HasFailure());

  std::vector<std::pair<std::string, size_t>> accepted;
  enum Target { kScheduler, kWorker, kEngine };
  std::vector<Target> plan;
  for (uint64_t i = 0; i < kills; ++i) plan.insert(plan.end(), {kScheduler, kWorker, kEngine});
  std::shuffle(plan.begin(), plan.end(), random);
  for (size_t round = 0; round < plan.size(); ++round) {
    const size_t kind = random() % kinds.size();
    accepted.emplace_back(service.Submit(kinds[kind].spec, absl::StrCat("chaos-", round)), kind);
    absl::SleepFor(absl::Milliseconds(100 + random() % 1500));
    const int index = static_cast<int>(random() % 2);
    switch (plan[round]) {
      case kScheduler:
        service.scheduler().Signal(SIGKILL);
        service.scheduler().Wait(absl::Seconds(5));
        break;
      case kWorker:
        service.worker(index).Signal(SIGKILL);
        service.worker(index).Wait(absl::Seconds(5));
        break;
      case kEngine:
        for (const pid_t pid : service.Engines(index)) kill(pid, SIGKILL);
        break;
    }
    service.StartScheduler();
    for (int i = 0; i < 2; ++i) service.StartWorker(i);
  }
  for (const auto& [job, kind] : accepted) {
    const v1::Job done = service.Await(job, absl::Minutes(5));
    EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString();
    EXPECT_EQ(WeightDigests(done), kinds[kind].expected) << job;
    ExpectOneEnd(service.Events(job), job);
  }
}

// SIGSTOP for everything of the worker whose engine works at `job`; which one it was, -1: none.
int StopTheBusyOne(Service& service, const std::string& job, std::vector<pid_t>* stopped) {
  for (int tries = 0; tries < 1000; ++tries) {
    const std::optional<v1::Job> now = service.Get(job);
    for (int index = 0; index < 2; ++index) {
      // The other one's engine may still be at the job that was taken from it.
      if (!now.has_value() || now->state() != v1::JOB_STATE_RUNNING ||
          !absl::EndsWith(now->worker(), absl::StrCat("worker-", index)) ||
          service.Engines(index).empty()) {
        continue;
      }
      *stopped = Descendants(service.worker(index).pid());
      stopped->push_back(service.worker(index).pid());
      for (const pid_t pid : *stopped) kill(pid, SIGSTOP);
      return index;
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
  return -1;
}

TEST(Chaos, AWorkerThatWokeTooLateChangesNothing) {
  const uint64_t zombies = FromEnvironment("QUANTD_ZOMBIES", 1);
  Service service({.workers = 2, .lease_seconds = 1});
  v1::JobSpec spec = QuantizeTiny("gptq", R"({"bits": 4, "group_size": 128})");
  spec.mutable_retry()->set_max_attempts(10);
  spec.mutable_retry()->mutable_backoff()->set_nanos(100'000'000);
  const v1::Job first = service.Await(service.Submit(spec, "undisturbed"), absl::Minutes(2));
  ASSERT_EQ(first.state(), v1::JOB_STATE_SUCCEEDED) << first.ShortDebugString() << service.Logs();
  for (uint64_t i = 0; i < zombies && !HasFailure(); ++i) {
    const std::string job = service.Submit(spec, absl::StrCat("zombie-", i));
    std::vector<pid_t> stopped;
    ASSERT_GE(StopTheBusyOne(service, job, &stopped), 0) << service.Logs();
    const absl::Time since = absl::Now();
    const v1::Job done = service.Await(job, absl::Minutes(2));  // By the other one.
    ASSERT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString() << service.Logs();
    EXPECT_GE(done.attempt(), 2);
    absl::SleepFor(since + absl::Seconds(3) - absl::Now());  // Three lease times.
    const std::vector<v1::JobEvent> before = service.Events(job);
    const int64_t fenced = service.Metric("quantd_fenced_writes_total");
    for (const pid_t pid : stopped) kill(pid, SIGCONT);
    // It says what it did, and is told that it is too late.
    for (int tries = 0; tries < 600 && service.Metric("quantd_fenced_writes_total") == fenced;
         ++tries) {
      absl::SleepFor(absl::Milliseconds(50));
    }
    EXPECT_GT(service.Metric("quantd_fenced_writes_total"), fenced) << service.Logs();
    const std::vector<v1::JobEvent> after = service.Events(job);
    EXPECT_EQ(after.size(), before.size()) << "the late worker wrote events";
    EXPECT_EQ(WeightDigests(*service.Get(job)), WeightDigests(first));
    ExpectOneEnd(after, job);
  }
  std::printf("%lld workers woke too late, %lld of their writes were refused\n",
              static_cast<long long>(zombies),
              static_cast<long long>(service.Metric("quantd_fenced_writes_total")));
  EXPECT_EQ(service.Metric("quantd_duplicate_completions_total"), 0);
}

}  // namespace
}  // namespace quantd::e2e
