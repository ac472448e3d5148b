// Death at every named point, a failure at every k-th call that changes a file, and power cuts
// (faults.cc), while clients and workers go on (load.h). QUANTD_FAULT_ROUNDS=N dies N times at each
// point, QUANTD_FAULT_CALLS=N lets N calls fail, QUANTD_FAULT_CUTS=N cuts the power N times;
// without them a sample of a few seconds. QUANTD_CHAOS_SEED repeats a run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "proto/names.h"
#include "tests/e2e/fault_points.h"
#include "tests/e2e/load.h"
#include "tests/e2e/service.h"

namespace quantd::e2e {
namespace {

using ::testing::IsEmpty;

// Faults that one store has to bear before it is looked at.
constexpr size_t kFaultsPerStore = 40;

struct Fault {
  std::string variable;  // Of faults.cc.
  std::string value;
  // How the scheduler ends: a signal, or 0 if it is to go on.
  int signal = 0;
};

std::string Library() { return absl::StrCat(QUANTD_BINARY_DIR, "/lib/libquantd_faults.so"); }

std::map<std::string, std::string> Environment(const std::string& folder, const Fault& fault) {
  return {{"LD_PRELOAD", Library()},
          {"QUANTD_FAULT_FOLDER", folder},
          {"QUANTD_FAULT_PROGRAM", "quantd"},
          {fault.variable, fault.value}};
}

bool AwaitFile(const std::string& path, absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (!FileExists(path) && absl::Now() < end) absl::SleepFor(absl::Milliseconds(5));
  return FileExists(path);
}

// One fault under load; false when it did not come.
bool Bear(Scheduler& scheduler, const Load& load, const Fault& fault, absl::Duration limit) {
  const std::string fired = scheduler.folder() + ".fired";
  unlink(fired.c_str());
  const bool started = scheduler.TryStart(Environment(scheduler.folder(), fault));
  const bool came = AwaitFile(fired, started ? limit : absl::ZeroDuration());
  SCOPED_TRACE(absl::StrCat(fault.variable, "=", fault.value, " ",
                            ReadFile(fired).value_or("did not come")));
  if (fault.signal != 0 && came) {
    EXPECT_EQ(scheduler.process().Wait(absl::Seconds(10)), 128 + fault.signal) << scheduler.Log();
    return true;
  }
  if (!started) {
    // One that cannot open its store says so and ends; no crash.
    EXPECT_EQ(scheduler.process().Wait(absl::Seconds(10)), 1) << scheduler.Log();
    EXPECT_TRUE(came) << scheduler.Log();
    return came;
  }
  // One that lives on goes on by itself.
  const int64_t answers = load.history().answers();
  const absl::Time end = absl::Now() + absl::Minutes(1);
  while (came && load.history().answers() < answers + 5 && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_TRUE(!came || load.history().answers() >= answers + 5) << "nothing is answered any more\n"
                                                                << scheduler.Log();
  EXPECT_TRUE(scheduler.process().Running()) << scheduler.Log();
  scheduler.Kill();
  return came;
}

// Faults one after the other in one store, then peace, then the books.
void BearAll(const std::vector<Fault>& faults, uint64_t seed) {
  size_t came = 0;
  for (size_t first = 0; first < faults.size(); first += kFaultsPerStore) {
    TemporaryFolder folder;
    Scheduler scheduler(folder / "scheduler", "", /*lease_seconds=*/1);
    ASSERT_FALSE(testing::Test::HasFailure());
    Load load({scheduler.address()}, seed + first);
    for (int i = 0; i < 1000 && load.history().accepted() < 5; ++i) {
      absl::SleepFor(absl::Milliseconds(5));
    }
    scheduler.Kill();
    for (size_t i = first; i < std::min(faults.size(), first + kFaultsPerStore); ++i) {
      // A start may find no lease to renew, or too short a log to copy.
      bool fired = false;
      for (int tries = 0; tries < 4 && !fired; ++tries) {
        fired = Bear(scheduler, load, faults[i], absl::Seconds(10));
      }
      EXPECT_TRUE(fired) << faults[i].value << " did not come\n" << scheduler.Log();
      came += fired;
      if (testing::Test::HasFailure()) break;
    }
    scheduler.Start();
    EXPECT_TRUE(load.Finish(absl::Seconds(60))) << "jobs did not end\n" << scheduler.Log();
    EXPECT_THAT(load.history().Broken(load.client(), /*all_submitted=*/true), IsEmpty());
    std::printf("%zu of %zu faults: %s\n", came, faults.size(), load.history().Summary().c_str());
    std::fflush(stdout);
    if (testing::Test::HasFailure()) return;
  }
}

std::vector<FaultPointRow> PointsIn(std::initializer_list<FaultIn> programs) {
  std::vector<FaultPointRow> points;
  for (const FaultPointRow& point : kFaultPoints) {
    if (std::count(programs.begin(), programs.end(), point.program) > 0) points.push_back(point);
  }
  return points;
}

// `rounds` of every point in a random order, or a sample of so many.
std::vector<std::pair<FaultPointRow, int>> Deaths(std::vector<FaultPointRow> points, size_t sample,
                                                  std::mt19937_64* random) {
  std::vector<std::pair<FaultPointRow, int>> deaths;
  const uint64_t rounds = FromEnvironment("QUANTD_FAULT_ROUNDS", 0);
  for (uint64_t round = 0; round < std::max<uint64_t>(rounds, 1); ++round) {
    for (const FaultPointRow& point : points) {
      deaths.emplace_back(
          point, 1 + static_cast<int>((*random)() % static_cast<uint64_t>(point.passings)));
    }
  }
  std::shuffle(deaths.begin(), deaths.end(), *random);
  if (rounds == 0) deaths.resize(std::min(deaths.size(), sample));
  return deaths;
}

TEST(Faults, TheListNamesEveryPointOfTheSources) {
  std::set<std::string> listed;
  for (const FaultPointRow& point : kFaultPoints) {
    EXPECT_TRUE(listed.insert(point.name).second) << point.name;
  }
  EXPECT_GE(listed.size(), 25u);
  std::set<std::string> found;
  const std::regex call("FaultPoint\\(\"([^\"]*)\"\\)");
  for (const char* folder : {"base", "server", "workers"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(Source(folder))) {
      const std::string path = entry.path().string();
      if (!absl::EndsWith(path, ".cc") && !absl::EndsWith(path, ".h")) continue;
      const std::string text = ReadFile(path).value_or("");
      for (std::sregex_iterator hit(text.begin(), text.end(), call), end; hit != end; ++hit) {
        EXPECT_TRUE(found.insert((*hit)[1]).second) << (*hit)[1] << " is a point twice";
      }
    }
  }
  EXPECT_EQ(found, listed);
}

TEST(Faults, DeathAtAnyPointOfTheSchedulerLosesNothing) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  std::vector<Fault> faults;
  for (const auto& [point, passing] : Deaths(PointsIn({FaultIn::kScheduler}), 8, &random)) {
    faults.push_back({"QUANTD_FAULT_POINT", absl::StrCat(point.name, ":", passing), SIGABRT});
  }
  BearAll(faults, seed);
}

TEST(Faults, AnyCallThatFailsOrKillsLosesNothing) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  const uint64_t wanted = FromEnvironment("QUANTD_FAULT_CALLS", 0);
  struct {
    const char* how;
    int signal;
  } const kinds[] = {{"EIO", 0}, {"ENOSPC", 0}, {"short", 0}, {"kill", SIGKILL}};
  std::vector<Fault> faults;
  for (uint64_t i = 0; i < std::max<uint64_t>(wanted, 8); ++i) {
    const auto& kind = kinds[i % std::size(kinds)];
    // All of them one by one; of a sample most come after the start, which takes some sixty.
    const uint64_t call = wanted > 0 ? 1 + i / std::size(kinds) : 1 + random() % 200;
    faults.push_back({"QUANTD_FAULT_CALL", absl::StrCat(call, ":", kind.how), kind.signal});
  }
  BearAll(faults, seed);
}

TEST(Faults, APowerCutLosesNothingThatWasAcknowledged) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  std::vector<Fault> faults;
  for (uint64_t i = FromEnvironment("QUANTD_FAULT_CUTS", 4); i > 0; --i) {
    faults.push_back({"QUANTD_FAULT_CALL", absl::StrCat(1 + random() % 400, ":cut"), SIGKILL});
  }
  BearAll(faults, seed);
}

// The zoo's "no fsync": a disk that only says that it has synced.
TEST(Faults, WithoutSyncsAPowerCutIsNoticed) {
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "", /*lease_seconds=*/1);
  ASSERT_FALSE(HasFailure());
  Load load({scheduler.address()}, 1);
  scheduler.Kill();
  auto environment = Environment(scheduler.folder(), {"QUANTD_FAULT_CALL", "300:cut", SIGKILL});
  environment["QUANTD_FAULT_LIES"] = "1";
  ASSERT_TRUE(scheduler.TryStart(environment)) << scheduler.Log();
  ASSERT_EQ(scheduler.process().Wait(absl::Seconds(30)), 128 + SIGKILL) << scheduler.Log();
  // Where the log was lost in part the database may be refused; that is noticed, too.
  if (!scheduler.TryStart()) return;
  load.Finish(absl::Seconds(3));
  EXPECT_FALSE(load.history().Broken(load.client(), true).empty());
}

// A worker sends its outcome again until it is answered. One that dies with the scheduler does not.
TEST(Faults, AnAcceptedOutputHasItsNameAlsoWhenSchedulerAndWorkersDied) {
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "");
  ASSERT_FALSE(HasFailure());
  Load load({scheduler.address()}, /*seed=*/1, {.steady = true});
  scheduler.Kill();
  ASSERT_TRUE(scheduler.TryStart(
      Environment(scheduler.folder(), {"QUANTD_FAULT_POINT", "complete/accepted:3", SIGABRT})));
  ASSERT_EQ(scheduler.process().Wait(absl::Seconds(30)), 128 + SIGABRT) << scheduler.Log();
  load.Abandon();
  scheduler.Start();
  Client client({scheduler.address()});
  v1::ListJobsRequest list;
  list.set_page_size(1000);
  list.add_states(v1::JOB_STATE_SUCCEEDED);
  v1::ListJobsResponse jobs;
  ASSERT_TRUE(client.Ask<v1::JobService>(&v1::JobService::Stub::ListJobs, list, &jobs).ok());
  EXPECT_GE(jobs.jobs_size(), 3);
  const absl::Time end = absl::Now() + absl::Seconds(30);
  for (const v1::Job& one : jobs.jobs()) {
    v1::GetJobRequest get;
    get.set_name(one.name());
    v1::Job job;
    ASSERT_TRUE(client.Ask<v1::JobService>(&v1::JobService::Stub::GetJob, get, &job).ok());
    v1::GetArtifactRequest request;
    request.set_name(ArtifactName({"default", job.output().sha256()}));
    v1::Artifact artifact;
    grpc::Status found;
    do {  // The scheduler does it beside its other work.
      found = client.Ask<v1::ArtifactService>(&v1::ArtifactService::Stub::GetArtifact, request,
                                              &artifact);
    } while (!found.ok() && absl::Now() < end);
    EXPECT_TRUE(found.ok()) << found.error_message();
    EXPECT_EQ(artifact.manifest().SerializeAsString(), job.output().SerializeAsString());
    EXPECT_EQ(artifact.job(), job.name());
  }
}

TEST(Faults, DeathAtAnyPointOfWorkerAndEngineCostsNoJob) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  auto deaths = Deaths(PointsIn({FaultIn::kWorker, FaultIn::kEngine}), 3, &random);
  Service service({.workers = 1,
                   .lease_seconds = 10,
                   .preload = Library(),
                   .preloaded = "worker-0",
                   .confined = false});
  v1::JobSpec spec = QuantizeTiny("rtn", R"({"bits": 4, "group_size": 128})");
  spec.mutable_retry()->mutable_backoff()->set_nanos(100'000'000);
  const v1::Job first = service.Await(service.Submit(spec, "undisturbed"), absl::Minutes(2));
  ASSERT_EQ(first.state(), v1::JOB_STATE_SUCCEEDED) << first.ShortDebugString() << service.Logs();
  for (size_t i = 0; i < deaths.size() && !HasFailure(); ++i) {
    const auto& [point, passing] = deaths[i];
    const bool worker = point.program == FaultIn::kWorker;
    SCOPED_TRACE(absl::StrCat(point.name, ":", passing));
    service.worker(0).Signal(SIGKILL);
    service.worker(0).Wait(absl::Seconds(5));
    const std::string fired = service / "worker-0.fired";
    unlink(fired.c_str());
    service.SetEnvironment({{"QUANTD_FAULT_PROGRAM", worker ? "quant-worker" : "quant-engine"},
                            {"QUANTD_FAULT_POINT", absl::StrCat(point.name, ":", passing)}});
    service.StartWorker(0);
    // One job may be over before so many passings.
    std::string job;
    for (int tries = 0; tries < 5 && !FileExists(fired); ++tries) {
      job = service.Submit(spec, absl::StrCat("disturbed-", i, "-", tries));
      for (int wait = 0; wait < 600 && !AwaitFile(fired, absl::Milliseconds(100)); ++wait) {
        const std::optional<v1::Job> now = service.Get(job);
        if (now.has_value() && now->state() == v1::JOB_STATE_SUCCEEDED) break;
      }
    }
    EXPECT_TRUE(FileExists(fired)) << "did not come" << service.Logs();
    if (worker) {
      EXPECT_EQ(service.worker(0).Wait(absl::Seconds(10)), 128 + SIGABRT) << service.Logs();
      service.StartWorker(0);
    }
    const v1::Job done = service.Await(job, absl::Minutes(2));
    EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString() << service.Logs();
    EXPECT_EQ(WeightDigests(done), WeightDigests(first));
    ExpectOneEnd(service.Events(job), job);
    std::printf("%zu of %zu deaths: %s\n", i + 1, deaths.size(), point.name);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace quantd::e2e
