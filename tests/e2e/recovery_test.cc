// kill -9 of the scheduler while clients submit, cancel and watch and 32 workers work: it is back
// within seconds, whatever was acknowledged holds, and no job is done twice. A store that was left
// open is checked as a whole when it is opened again (sqlite_job_store.h), so a damaged one would
// end the test. QUANTD_RECOVERY_KILLS sets the kills (the full test: 100, where the time is held to
// its bar too), QUANTD_CHAOS_SEED repeats a run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "server/store/testing/postgres_server.h"
#include "tests/e2e/load.h"
#include "tests/e2e/service.h"

namespace quantd::e2e {
namespace {

constexpr absl::Duration kRecoveryBar = absl::Seconds(3);

// From the start of the process to the next answer that a client or worker was given.
absl::Duration Recover(Scheduler& scheduler, const History& history) {
  const int64_t answers = history.answers();
  const absl::Time start = absl::Now();
  scheduler.Start();
  while (history.answers() == answers && absl::Now() < start + absl::Seconds(30)) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_GT(history.answers(), answers) << "nothing is answered\n" << scheduler.Log();
  return absl::Now() - start;
}

void KillUnderLoad(const std::string& store) {
  const uint64_t seed = ChaosSeed();
  const uint64_t kills = FromEnvironment("QUANTD_RECOVERY_KILLS", 3);
  std::mt19937_64 random(seed);
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", store, /*lease_seconds=*/1);
  ASSERT_FALSE(testing::Test::HasFailure());
  Load load({scheduler.address()}, seed, {.workers = 32});
  absl::Duration up, longest;
  for (uint64_t i = 0; i < kills && !testing::Test::HasFailure(); ++i) {
    const absl::Duration life = absl::Milliseconds(200 + random() % 800);
    absl::SleepFor(life);
    up += life;
    scheduler.Kill();
    longest = std::max(longest, Recover(scheduler, load.history()));
  }
  const double rate = static_cast<double>(load.history().accepted()) / absl::ToDoubleSeconds(up);
  EXPECT_TRUE(load.Finish(absl::Seconds(60))) << "jobs did not end\n" << scheduler.Log();
  EXPECT_THAT(load.history().Broken(load.client(), /*all_submitted=*/true), testing::IsEmpty());
  std::printf("%d kills, back after %s at most, %.0f submits/s: %s\n", static_cast<int>(kills),
              absl::FormatDuration(longest).c_str(), rate, load.history().Summary().c_str());
  if (std::getenv("QUANTD_RECOVERY_KILLS") != nullptr) EXPECT_LT(longest, kRecoveryBar);
}

TEST(Recovery, OfASchedulerThatIsKilledUnderLoad) { KillUnderLoad(""); }

TEST(Recovery, OfOneThatKeepsItsJobsInPostgres) {
  PostgresServer database;
  KillUnderLoad(database.NewDatabase());
}

}  // namespace
}  // namespace quantd::e2e
