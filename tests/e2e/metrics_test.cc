// What /metrics counts is what happened: after a load over a network that breaks every connection,
// each counter is the number of events of its kind in the jobs' own logs. QUANTD_METRIC_SECONDS
// sets how long (the full test: 120).
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "tests/e2e/load.h"
#include "tests/e2e/proxy.h"
#include "tests/e2e/service.h"

namespace quantd::e2e {
namespace {

struct Counted {
  std::map<v1::JobState, int64_t> jobs;
  int64_t leases = 0;
};

// From the jobs' events, which are in the store's transactions.
Counted Count(Client client) {
  Counted counted;
  std::vector<v1::Job> jobs;
  EXPECT_TRUE(client.Jobs(&jobs).ok());
  for (const v1::Job& job : jobs) {
    ++counted.jobs[job.state()];
    std::vector<v1::JobEvent> events;
    EXPECT_TRUE(client.Events(job.name(), &events).ok());
    for (const v1::JobEvent& event : events) {
      counted.leases += event.state().state() == v1::JOB_STATE_RUNNING ? 1 : 0;
    }
  }
  return counted;
}

TEST(Metrics, CountWhatTheEventsTell) {
  const uint64_t seed = ChaosSeed();
  Service service({.workers = 0, .lease_seconds = 3});
  Proxy proxy(service.address(), seed);
  Load load({proxy.address()}, seed);
  proxy.Set({.reset_after = absl::Milliseconds(300)});
  absl::SleepFor(absl::Seconds(FromEnvironment("QUANTD_METRIC_SECONDS", 2)));
  proxy.Set({});
  ASSERT_TRUE(load.Finish(absl::Minutes(2))) << service.Logs();
  Counted counted = Count(Client({service.address()}));
  int64_t jobs = 0;
  const std::pair<v1::JobState, const char*> kOutcomes[] = {{v1::JOB_STATE_SUCCEEDED, "succeeded"},
                                                            {v1::JOB_STATE_FAILED, "failed"},
                                                            {v1::JOB_STATE_CANCELLED, "cancelled"}};
  for (const auto& [state, word] : kOutcomes) {
    const int64_t number = counted.jobs[state];
    jobs += number;
    EXPECT_EQ(service.Metric("quantd_jobs_finished_total", absl::StrCat("outcome=\"", word, "\"")),
              number);
    EXPECT_EQ(service.Metric("quantd_jobs", absl::StrCat("state=\"", word, "\"")), number);
  }
  EXPECT_EQ(service.Metric("quantd_jobs_finished_total"), jobs);
  EXPECT_EQ(service.Metric("quantd_jobs"), jobs);
  EXPECT_EQ(service.Metric("quantd_jobs_submitted_total"), load.history().accepted());
  EXPECT_EQ(jobs, load.history().accepted());
  EXPECT_EQ(service.Metric("quantd_leases_granted_total"), counted.leases);
  EXPECT_EQ(service.Metric("quantd_duplicate_completions_total"), 0);
  EXPECT_GT(counted.leases, 0);
  std::printf("%s, %lld connections reset\n", load.history().Summary().c_str(),
              static_cast<long long>(proxy.resets()));
}

}  // namespace
}  // namespace quantd::e2e
