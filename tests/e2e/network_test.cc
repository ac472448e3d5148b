// Clients and workers behind a bad network (proxy.h): black holes, delays, losses, resets,
// connections of which one side is forgotten. All jobs end, nothing is done twice, and everyone is
// back within ten seconds after the network is. QUANTD_NETWORK_SECONDS sets how long each kind
// lasts (the full test: 600), QUANTD_CHAOS_SEED repeats a run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/e2e/load.h"
#include "tests/e2e/proxy.h"
#include "tests/e2e/service.h"

namespace quantd::e2e {
namespace {

using ::testing::IsEmpty;

constexpr absl::Duration kBackMax = absl::Seconds(10);
// Longer than it takes to notice, shorter than any patience.
constexpr double kSpellSecondsMax = 45;

struct Kind {
  const char* name;
  Weather weather;
  bool half_open = false;
  bool quick = true;  // In the short form, too: it is over when the weather is.
};
const Kind kKinds[] = {
    {"black hole", {.black_hole = true}},
    {"delay", {.delay = absl::Milliseconds(300), .jitter = absl::Milliseconds(100)}},
    {"loss", {.loss = 0.05}},
    {"resets", {.reset_after = absl::Milliseconds(500)}},
    {"half-open", {}, /*half_open=*/true, /*quick=*/false},
};

double Seconds() { return static_cast<double>(FromEnvironment("QUANTD_NETWORK_SECONDS", 0)); }

// The kinds of this run, each with how long its spells are; some at random that add up to what was
// asked for.
std::vector<std::pair<const Kind*, absl::Duration>> Spells(std::mt19937_64* random) {
  std::vector<std::pair<const Kind*, absl::Duration>> spells;
  for (const Kind& kind : kKinds) {
    if (Seconds() == 0 && kind.quick) spells.emplace_back(&kind, absl::Seconds(1));
    for (double left = Seconds(); left > 0;) {
      const double spell =
          std::min(left, std::uniform_real_distribution<double>(1, kSpellSecondsMax)(*random));
      spells.emplace_back(&kind, absl::Seconds(spell));
      left -= spell;
    }
  }
  return spells;
}

void Disturb(Proxy* proxy, const Kind& kind, absl::Duration spell) {
  proxy->Set(kind.weather);
  if (kind.half_open) proxy->HalfOpen();
  // Forgotten connections stay so after the network is back, which is at once.
  if (!kind.half_open) absl::SleepFor(spell);
  proxy->Set({});
}

// How long until `back` holds.
template <typename Back>
absl::Duration TimeUntil(Back back, absl::Duration limit) {
  const absl::Time start = absl::Now();
  while (!back() && absl::Now() < start + limit) absl::SleepFor(absl::Milliseconds(10));
  return absl::Now() - start;
}

void Print(const std::map<std::string, absl::Duration>& slowest) {
  for (const auto& [name, time] : slowest) {
    std::printf("back after %s: %.1f s at most\n", name.c_str(), absl::ToDoubleSeconds(time));
  }
  std::fflush(stdout);
}

TEST(Network, WhateverItDoesJobsEndOnceAndEveryoneIsBackSoon) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "");
  ASSERT_FALSE(HasFailure());
  Proxy proxy(scheduler.address(), seed);
  Load load({proxy.address()}, seed);
  std::map<std::string, absl::Duration> slowest;
  for (const auto& [kind, spell] : Spells(&random)) {
    Disturb(&proxy, *kind, spell);
    const int64_t answers = load.history().answers();
    const absl::Duration took =
        TimeUntil([&] { return load.history().answers() >= answers + 20; }, 2 * kBackMax);
    EXPECT_LT(took, kBackMax) << kind->name << " of " << spell;
    slowest[kind->name] = std::max(slowest[kind->name], took);
  }
  Print(slowest);
  EXPECT_TRUE(load.Finish(absl::Seconds(60))) << "jobs did not end\n" << scheduler.Log();
  EXPECT_THAT(load.history().Broken(Client({scheduler.address()}), /*all_submitted=*/true),
              IsEmpty());
  std::printf("%s, %lld watches resumed, %lld connections, %lld reset\n",
              load.history().Summary().c_str(), static_cast<long long>(load.resumed()),
              static_cast<long long>(proxy.accepted()), static_cast<long long>(proxy.resets()));
}

TEST(Network, ARequestIdIsOneJobHoweverOftenItIsSent) {
  const uint64_t seed = ChaosSeed();
  constexpr int kDuplicates = 64;
  constexpr int kClients = 8;
  const int retried = Seconds() > 0 ? 1000 : 40;
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "");
  ASSERT_FALSE(HasFailure());
  Proxy proxy(scheduler.address(), seed);
  const auto submit = [](Client* client, const std::string& request_id) {
    v1::SubmitJobRequest request;
    request.set_request_id(request_id);
    request.mutable_spec()->mutable_quantize()->set_model("/models/tiny");
    request.mutable_spec()->mutable_quantize()->set_method("rtn");
    v1::SubmitJobResponse response;
    const grpc::Status status =
        client->Ask<v1::JobService>(&v1::JobService::Stub::SubmitJob, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job().name();
  };
  History history;
  std::vector<std::thread> threads;
  for (int i = 0; i < kDuplicates; ++i) {
    threads.emplace_back([&] {
      Client client({proxy.address()});
      history.Accepted("one-and-the-same", submit(&client, "one-and-the-same"));
    });
  }
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  // Many calls lose their answer, and are sent again.
  proxy.Set({.delay = absl::Milliseconds(5), .reset_after = absl::Milliseconds(60)});
  std::atomic<int> next{0};
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&] {
      Client client({proxy.address()});
      for (int number = next++; number < retried; number = next++) {
        const std::string id = absl::StrCat("request-", number);
        history.Accepted(id, submit(&client, id));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  proxy.Set({});
  EXPECT_EQ(history.accepted(), 1 + retried);
  std::vector<v1::Job> jobs;
  ASSERT_TRUE(Client({scheduler.address()}).Jobs(&jobs).ok());
  EXPECT_EQ(jobs.size(), 1u + static_cast<size_t>(retried));
  std::printf("%d duplicates and %d requests: %zu jobs over %lld connections, %lld reset\n",
              kDuplicates, retried, jobs.size(), static_cast<long long>(proxy.accepted()),
              static_cast<long long>(proxy.resets()));
}

// The real worker, whose connection is the one that users have.
TEST(Network, AWorkerTakesJobsSoonAfterTheNetworkOrTheSchedulerIsBack) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  Service service({.workers = 0, .lease_seconds = 5});
  Proxy proxy(service.address(), seed);
  Process worker({Program("quant-worker"), "--scheduler", proxy.address(), "--name", "far",
                  "--data", service / "far"},
                 service / "far.log");
  v1::JobSpec spec = QuantizeTiny("rtn", R"({"bits": 4, "group_size": 128})");
  spec.mutable_retry()->set_max_attempts(100);
  int jobs = 0;
  std::map<std::string, absl::Duration> slowest;
  const auto take = [&](const std::string& after) {
    const std::string job = service.Submit(spec, absl::StrCat("far-", jobs++));
    const absl::Duration took = TimeUntil(
        [&] {
          const auto now = service.Get(job);
          return now.has_value() && now->attempt() > 0;
        },
        absl::Minutes(1));
    if (!after.empty()) {
      EXPECT_LT(took, kBackMax) << after << worker.Log();
      slowest[after] = std::max(slowest[after], took);
    }
    const v1::Job done = service.Await(job, absl::Minutes(2));
    EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString() << worker.Log();
    ExpectOneEnd(service.Events(job), job);
  };
  take("");
  for (int i = 0; i < (Seconds() > 0 ? 20 : 1); ++i) {
    service.scheduler().Signal(SIGKILL);
    service.scheduler().Wait(absl::Seconds(5));
    absl::SleepFor(absl::Milliseconds(500 + random() % 1000));
    service.StartScheduler();
    take("the scheduler's death");
  }
  if (Seconds() > 0) {
    for (const auto& [kind, spell] : Spells(&random)) {
      Disturb(&proxy, *kind, spell);
      take(kind->name);
    }
  }
  Print(slowest);
}

}  // namespace
}  // namespace quantd::e2e
