// The wall clock of scheduler or worker jumps by an hour or a day, or runs too fast or too slow,
// while jobs run: no lease ends early, nothing is stuck, and a job's events stay in the order of
// their times, over a restart, too. The clock that is wrong is the program's own view of it
// (faults.cc). QUANTD_CLOCK_ROUNDS sets how often each jump comes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "tests/e2e/load.h"
#include "tests/e2e/service.h"
#include "tests/e2e/wall_clock.h"

namespace quantd::e2e {
namespace {

using ::testing::IsEmpty;

struct Jump {
  const char* name;
  absl::Duration by;
  int64_t slew_ppb = 0;
};
const Jump kJumps[] = {
    {"a day back", -absl::Hours(24)},  {"a day ahead", absl::Hours(24)},
    {"an hour ahead", absl::Hours(1)}, {"an hour back", -absl::Hours(1)},
    {"5 % too fast", {}, 50'000'000},  {"5 % too slow", {}, -50'000'000},
};

std::string Library() { return absl::StrCat(QUANTD_BINARY_DIR, "/lib/libquantd_faults.so"); }

uint64_t Rounds() { return FromEnvironment("QUANTD_CLOCK_ROUNDS", 1); }

void Set(WallClock* clock, const Jump& jump) {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  clock->slew_ppb = 0;
  clock->slew_since_ns = absl::ToInt64Nanoseconds(absl::DurationFromTimespec(now));
  clock->wrong_ns += absl::ToInt64Nanoseconds(jump.by);
  clock->slew_ppb = jump.slew_ppb;
}

void ExpectInOrder(const std::vector<v1::JobEvent>& events, const std::string& job) {
  absl::Time last = absl::InfinitePast();
  for (const v1::JobEvent& event : events) {
    const absl::Time time =
        absl::FromUnixSeconds(event.time().seconds()) + absl::Nanoseconds(event.time().nanos());
    EXPECT_GE(time, last) << job << ": " << event.ShortDebugString();
    last = time;
  }
}

// Not `steady`: workers forget jobs, whose leases have to run out, and fail them, which pauses
// them.
void JumpTheSchedulers(bool steady) {
  const uint64_t seed = ChaosSeed();
  TemporaryFolder folder;
  WallClock* clock = MapWallClock((folder / "clock").c_str());
  ASSERT_NE(clock, nullptr);
  Scheduler scheduler(folder / "scheduler", "");
  const std::map<std::string, std::string> environment = {{"LD_PRELOAD", Library()},
                                                          {"QUANTD_FAULT_CLOCK", folder / "clock"}};
  scheduler.Kill();
  ASSERT_TRUE(scheduler.TryStart(environment)) << scheduler.Log();
  Load load({scheduler.address()}, seed, {.steady = steady, .step_ms = 20});
  for (uint64_t i = 0; i < Rounds() * std::size(kJumps) && !testing::Test::HasFailure(); ++i) {
    const Jump& jump = kJumps[i % std::size(kJumps)];
    Set(clock, jump);
    const int64_t answers = load.history().answers();
    const absl::Time end = absl::Now() + absl::Seconds(30);
    while (load.history().answers() < answers + 50 && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    EXPECT_GE(load.history().answers(), answers + 50) << "stuck after " << jump.name << "\n"
                                                      << scheduler.Log();
    // Long enough for the scheduler's own clocks to begin to wait by this one.
    if (!steady && jump.by > absl::ZeroDuration()) absl::SleepFor(absl::Milliseconds(1200));
    // The next one opens its store with a clock that is a day behind what is in it.
    if (jump.by == -absl::Hours(24)) {
      EXPECT_EQ(scheduler.Stop(), 0) << scheduler.Log();
      ASSERT_TRUE(scheduler.TryStart(environment)) << scheduler.Log();
    }
  }
  EXPECT_TRUE(load.Finish(absl::Seconds(60))) << "jobs did not end\n" << scheduler.Log();
  EXPECT_THAT(load.history().Broken(load.client(), /*all_submitted=*/true), IsEmpty());
  Client client = load.client();
  std::vector<v1::Job> jobs;
  ASSERT_TRUE(client.Jobs(&jobs).ok());
  for (const v1::Job& job : jobs) {
    EXPECT_TRUE(!steady || job.state() == v1::JOB_STATE_SUCCEEDED) << job.ShortDebugString();
    EXPECT_TRUE(!steady || job.attempt() == 1) << job.ShortDebugString();
    std::vector<v1::JobEvent> events;
    EXPECT_TRUE(client.Events(job.name(), &events).ok());
    ExpectInOrder(events, job.name());
  }
  std::printf("%s\n", load.history().Summary().c_str());
}

// An attempt whose lease ended early would fail its job.
TEST(WallClock, JumpsOfTheSchedulersExpireNothingEarly) { JumpTheSchedulers(/*steady=*/true); }

TEST(WallClock, JumpsOfTheSchedulersLeaveNoJobStuck) { JumpTheSchedulers(/*steady=*/false); }

TEST(WallClock, JumpsOfAWorkersLoseNoJob) {
  ChaosSeed();
  TemporaryFolder folder;
  WallClock* clock = MapWallClock((folder / "clock").c_str());
  ASSERT_NE(clock, nullptr);
  Service service({.workers = 1,
                   .lease_seconds = 5,
                   .preload = Library(),
                   .preloaded = "worker-0",
                   .confined = false});
  service.worker(0).Signal(SIGKILL);
  service.worker(0).Wait(absl::Seconds(5));
  service.SetEnvironment({{"QUANTD_FAULT_CLOCK", folder / "clock"}, {"QUANTD_FAULT_PROGRAM", ""}});
  service.StartWorker(0);
  v1::JobSpec spec = QuantizeTiny("rtn", R"({"bits": 4, "group_size": 128})");
  spec.mutable_retry()->set_max_attempts(1);
  std::vector<std::string> jobs;
  for (uint64_t i = 0; i < Rounds() * std::size(kJumps) && !HasFailure(); ++i) {
    jobs.push_back(service.Submit(spec, absl::StrCat("jump-", i)));
    absl::SleepFor(absl::Milliseconds(250));
    Set(clock, kJumps[i % std::size(kJumps)]);
  }
  for (const std::string& job : jobs) {
    const v1::Job done = service.Await(job, absl::Minutes(1));
    EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString() << service.Logs();
    EXPECT_EQ(done.attempt(), 1);
    const std::vector<v1::JobEvent> events = service.Events(job);
    ExpectOneEnd(events, job);
    ExpectInOrder(events, job);
  }
}

}  // namespace
}  // namespace quantd::e2e
