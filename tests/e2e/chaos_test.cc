// kill -9 of scheduler, worker and engine at random moments: no accepted job is lost, none
// completed twice, and resumed results are the same bytes. QUANTD_CHAOS_KILLS sets the kills of
// each program (the full test: 30), QUANTD_CHAOS_SEED repeats a run.
#include <gtest/gtest.h>
#include <signal.h>

#include <random>

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

TEST(Chaos, AWorkerThatWokeTooLateChangesNothing) {
  Service service({.workers = 1, .lease_seconds = 2});
  v1::JobSpec spec = QuantizeTiny("gptq", R"({"bits": 4, "group_size": 128})");
  const v1::Job first = service.Await(service.Submit(spec, "undisturbed"), absl::Minutes(2));
  ASSERT_EQ(first.state(), v1::JOB_STATE_SUCCEEDED) << first.ShortDebugString() << service.Logs();

  const std::string job = service.Submit(spec, "zombie");
  std::vector<pid_t> stopped;
  for (int i = 0; i < 200 && stopped.empty(); ++i) {
    absl::SleepFor(absl::Milliseconds(20));
    if (service.Engines(0).empty()) continue;
    stopped = Descendants(service.worker(0).pid());
    stopped.push_back(service.worker(0).pid());
    for (const pid_t pid : stopped) kill(pid, SIGSTOP);
  }
  ASSERT_FALSE(stopped.empty());
  absl::SleepFor(absl::Seconds(6));  // Three lease times.
  Process second({Program("quant-worker"), "--scheduler", service.address(), "--name", "second",
                  "--data", service / "second"},
                 service / "second.log");
  const v1::Job done = service.Await(job, absl::Minutes(2));
  ASSERT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString() << service.Logs();
  const std::vector<v1::JobEvent> before = service.Events(job);
  for (const pid_t pid : stopped) kill(pid, SIGCONT);
  absl::SleepFor(absl::Seconds(5));
  const std::vector<v1::JobEvent> after = service.Events(job);
  EXPECT_EQ(after.size(), before.size()) << "the late worker wrote events";
  EXPECT_EQ(WeightDigests(*service.Get(job)), WeightDigests(first));
  EXPECT_GE(done.attempt(), 2);
  ExpectOneEnd(after, job);
}

}  // namespace
}  // namespace quantd::e2e
