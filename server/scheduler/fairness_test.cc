// Shares that go by the weights, priorities that nobody waits for for ever, limits that refuse in
// words. Time is passed in and numbers come from a seed: the same on every machine.
#include "server/scheduler/fairness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "proto/errors.h"
#include "proto/google/rpc/error_details.pb.h"
#include "server/scheduler/queue_testing.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

v1::SubmitJobRequest RequestOf(const std::string& tenant, int priority = 0) {
  v1::SubmitJobRequest request = QuantizeRequest();
  request.set_parent("tenants/" + tenant);
  request.mutable_spec()->set_priority(priority);
  return request;
}

std::string TenantOfLease(const v1::Lease& lease) {
  return lease.job().substr(8, lease.job().find('/', 8) - 8);
}

// Leases and completes one; its tenant.
std::string RunOne(TestQueue* t) {
  const v1::Lease lease = t->MustLease();
  QD_CHECK(t->Succeed(lease).ok());
  return TenantOfLease(lease);
}

QueueOptions Weighted(const std::map<std::string, int64_t>& weights) {
  QueueOptions options;
  for (const auto& [tenant, weight] : weights) options.tenants.named[tenant].weight = weight;
  return options;
}

TEST(Fairness, LeasesGoByTheWeights) {
  const std::map<std::string, int64_t> weights = {{"a", 1}, {"b", 2}, {"c", 5}};
  TestQueue t(Weighted(weights));
  t.Register(TestWorker("w"));
  constexpr int kLeases = 400;
  for (const auto& [tenant, weight] : weights) {
    for (int i = 0; i < kLeases; ++i) t.Submit(RequestOf(tenant));
  }
  std::map<std::string, int64_t> had;
  for (int i = 1; i <= kLeases; ++i) {
    ++had[RunOne(&t)];
    for (const auto& [tenant, weight] : weights) {
      // At no moment further than one lease of each from its share.
      const double share = static_cast<double>(i * weight) / 8;
      EXPECT_LE(std::abs(static_cast<double>(had[tenant]) - share), 3)
          << tenant << " after " << i << " leases";
    }
  }
  EXPECT_EQ(had["a"], 50);
  EXPECT_EQ(had["b"], 100);
  EXPECT_EQ(had["c"], 250);
}

TEST(Fairness, WhoWasAwayBeginsWhereTheOthersAre) {
  TestQueue t(Weighted({{"a", 1}, {"b", 1}}));
  t.Register(TestWorker("w"));
  for (int i = 0; i < 60; ++i) t.Submit(RequestOf("a"));
  for (int i = 0; i < 40; ++i) EXPECT_EQ(RunOne(&t), "a");
  for (int i = 0; i < 20; ++i) t.Submit(RequestOf("b"));
  int64_t had = 0;
  for (int i = 0; i < 20; ++i) had += RunOne(&t) == "b";
  EXPECT_EQ(had, 10);
  // And the books outlive a restart.
  t.Open();
  for (int i = 0; i < 10; ++i) had += RunOne(&t) == "b";
  EXPECT_EQ(had, 15);
}

TEST(Fairness, ManyTenantsPrioritiesAndNeedsComeAndGoAndSharesStay) {
  constexpr uint64_t kSeed = 7;
  TestRandom random(kSeed);
  const std::map<std::string, int64_t> weights = {{"a", 1}, {"b", 3}, {"c", 4}, {"d", 2}};
  TestQueue t(Weighted(weights), 3);
  t.Register(TestWorker("w"));
  std::map<std::string, int64_t> had;
  constexpr int kLeases = 600;
  for (int i = 0; i < kLeases; ++i) {
    // Every tenant always has some that wait, of both methods.
    for (const auto& [tenant, weight] : weights) {
      for (int64_t n = i == 0 ? 20 : random.Below(3); n > 0; --n) {
        v1::SubmitJobRequest request = RequestOf(tenant);
        if (random.OneIn(2)) request.mutable_spec()->mutable_quantize()->set_method("gptq");
        t.Submit(request);
      }
    }
    t.now += absl::Seconds(random.Below(30));
    v1::LeaseJobRequest poll;
    poll.set_worker("workers/w");
    poll.set_instance_id("i1");
    const auto leased = t.Any()->LeaseJob(poll, t.now);  // Whichever scheduler is asked.
    ASSERT_TRUE(leased.ok() && leased->has_lease()) << "seed " << kSeed << ", " << i;
    ++had[TenantOfLease(leased->lease())];
    // Attempts that fail and come back are leases, too.
    if (random.OneIn(5)) {
      ASSERT_TRUE(t.Fail(leased->lease(), v1::ERROR_CLASS_PREEMPTED).ok());
    } else {
      ASSERT_TRUE(t.Succeed(leased->lease()).ok());
    }
  }
  for (const auto& [tenant, weight] : weights) {
    const double share = static_cast<double>(weight) / 10;
    EXPECT_NEAR(static_cast<double>(had[tenant]) / kLeases, share, share * 0.05)
        << tenant << ", seed " << kSeed;
  }
}

TEST(Fairness, NoPriorityWaitsForEver) {
  for (const bool aging : {true, false}) {
    QueueOptions options;
    options.aging = aging ? absl::Hours(1) : absl::InfiniteDuration();
    TestQueue t(options);
    t.Register(TestWorker("w"));
    const absl::Time start = t.now;
    const std::string low = t.Submit(RequestOf("patient", -2));
    // The others always have a job of a higher priority that waits.
    for (int i = 0; i < 5; ++i) t.Submit(RequestOf("eager", 3));
    bool ran = false;
    while (!ran && t.now < start + absl::Hours(12)) {
      t.Submit(RequestOf("eager", 3));
      ran = RunOne(&t) == "patient";
      t.now += absl::Minutes(3);
    }
    EXPECT_EQ(ran, aging);
    if (aging) {
      // Five priorities and what the others waited themselves.
      EXPECT_LE(t.now - start, absl::Hours(6));
      EXPECT_GE(t.now - start, absl::Hours(5));
    }
  }
}

TEST(Fairness, APriorityGoesFirstWhoeverHasHadLess) {
  TestQueue t(Weighted({{"a", 1}, {"b", 100}}));
  t.Register(TestWorker("w"));
  for (int i = 0; i < 3; ++i) t.Submit(RequestOf("b", 0));
  for (int i = 0; i < 3; ++i) t.Submit(RequestOf("a", 1));
  for (const char* tenant : {"a", "a", "a", "b", "b", "b"}) EXPECT_EQ(RunOne(&t), tenant);
}

TEST(Fairness, PlacesTellTheOrderInWhichJobsAreLeased) {
  TestQueue t(Weighted({{"a", 1}, {"b", 3}}));
  t.Register(TestWorker("w"));
  std::vector<std::string> jobs;
  for (int i = 0; i < 6; ++i) jobs.push_back(t.Submit(RequestOf("a")));
  for (int i = 0; i < 9; ++i) jobs.push_back(t.Submit(RequestOf("b")));
  jobs.push_back(t.Submit(RequestOf("a", 2)));
  std::map<std::string, int64_t> places;
  for (const std::string& job : jobs) {
    const v1::Job shown = t.Get(job);
    places[job] = shown.queue_position();
    EXPECT_THAT(shown.waiting_reason(),
                places[job] == 1 ? HasSubstr("next in line") : HasSubstr("ahead"));
  }
  // The list says the same as each job.
  for (const char* tenant : {"a", "b"}) {
    v1::ListJobsRequest list;
    list.set_parent(absl::StrCat("tenants/", tenant));
    const auto listed = t.queue->ListJobs(list, t.now);
    for (const v1::Job& job : listed->jobs()) {
      EXPECT_EQ(job.queue_position(), places[job.name()]) << job.name();
      EXPECT_EQ(job.waiting_reason(), t.Get(job.name()).waiting_reason());
    }
  }
  for (size_t i = 1; i <= jobs.size(); ++i) {
    const v1::Lease lease = t.MustLease();
    EXPECT_LE(std::abs(places[lease.job()] - static_cast<int64_t>(i)), 1)
        << lease.job() << " was " << i << ". to be leased";
    ASSERT_TRUE(t.Succeed(lease).ok());
  }
}

void ExpectRefused(const absl::Status& status, const std::string& limit, const std::string& value,
                   const std::string& used) {
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ReasonOf(status), kReasonQuotaExceeded);
  EXPECT_EQ(ReasonMetadata(status, "limit"), limit);
  EXPECT_EQ(ReasonMetadata(status, "value"), value);
  EXPECT_EQ(ReasonMetadata(status, "used"), used);
  EXPECT_THAT(std::string(status.message()), HasSubstr(limit));
  EXPECT_TRUE(RetryAfterOf(status).has_value());
  const auto payload = status.GetPayload("type.googleapis.com/google.rpc.QuotaFailure");
  ASSERT_TRUE(payload.has_value());
  google::rpc::QuotaFailure detail;
  ASSERT_TRUE(detail.ParseFromString(std::string(*payload)));
  ASSERT_EQ(detail.violations_size(), 1);
  EXPECT_THAT(detail.violations(0).subject(), HasSubstr(limit));
}

TEST(Quota, SoManyJobsWait) {
  QueueOptions options;
  options.tenants.named["small"].queued_max = 2;
  TestQueue t(options);
  t.Register(TestWorker("w"));
  const std::string first = t.Submit(RequestOf("small"));
  v1::SubmitJobRequest dependent = RequestOf("small");
  dependent.mutable_spec()->add_dependencies()->set_job(first);
  t.Submit(dependent);
  ExpectRefused(t.queue->SubmitJob(RequestOf("small"), t.now).status(), "queued-max", "2", "2");
  v1::SubmitJobRequest dry = RequestOf("small");
  dry.set_validate_only(true);
  ExpectRefused(t.queue->SubmitJob(dry, t.now).status(), "queued-max", "2", "2");
  t.Submit(RequestOf("other"));
  v1::SubmitSweepRequest sweep;
  sweep.set_parent("tenants/small");
  sweep.mutable_spec()->add_models("m");
  sweep.mutable_spec()->add_variants()->set_method("rtn");
  sweep.mutable_spec()->add_tasks()->set_name("perplexity");
  ExpectRefused(t.queue->SubmitSweep(sweep, t.now).status(), "queued-max", "2", "2");
  // One that runs makes room; a failed one that is to run again needs it.
  const v1::Lease lease = t.MustLease();
  t.Submit(RequestOf("small"));
  ASSERT_TRUE(t.Fail(lease, v1::ERROR_CLASS_BAD_INPUT).ok());
  v1::RetryJobRequest retry;
  retry.set_name(lease.job());
  t.Submit(RequestOf("small"));
  ExpectRefused(t.queue->RetryJob(retry, t.now).status(), "queued-max", "2", "2");
}

TEST(Quota, SoManyJobsRun) {
  QueueOptions options;
  options.tenants.others.running_max = 1;
  TestQueue t(options);
  for (const char* worker : {"w", "v", "u"}) t.Register(TestWorker(worker));
  t.Submit(RequestOf("a"));
  const std::string second = t.Submit(RequestOf("a"));
  const v1::Lease lease = t.MustLease("w");
  EXPECT_FALSE(t.Lease("v")->has_lease());
  EXPECT_EQ(t.Get(second).waiting_reason(),
            "tenant a runs 1 of at most 1 jobs at a time (running-max)");
  t.Submit(RequestOf("b"));
  EXPECT_EQ(TenantOfLease(t.MustLease("v")), "b");
  ASSERT_TRUE(t.Succeed(lease).ok());
  EXPECT_EQ(t.MustLease("u").job(), second);
}

TEST(Quota, SoManyGpuHoursADay) {
  QueueOptions options;
  options.tenants.named["a"].gpu_hours_per_day = 2;
  options.lease_time = absl::Hours(48);
  TestQueue t(options);
  t.now = absl::FromUnixSeconds(20'000 * int64_t{86'400}) + absl::Hours(20);
  v1::Worker gpu = TestWorker("g");
  gpu.mutable_catalog()->add_devices()->set_type("cuda");
  t.Register(gpu);
  t.Submit(RequestOf("a"));
  const std::string second = t.Submit(RequestOf("a"));
  t.Submit(RequestOf("a"));
  const v1::Lease lease = t.MustLease("g");
  t.now += absl::Minutes(90);
  ASSERT_TRUE(t.Succeed(lease).ok());
  EXPECT_EQ(t.Get(second).waiting_reason(), "next in line for a free worker");
  const v1::Lease over = t.MustLease("g");
  t.now += absl::Minutes(40);
  ASSERT_TRUE(t.Succeed(over).ok());
  EXPECT_FALSE(t.Lease("g")->has_lease()) << "2 h 10 min are used";
  v1::ListJobsRequest list;
  list.set_parent("tenants/a");
  list.add_states(v1::JOB_STATE_QUEUED);
  EXPECT_EQ(t.queue->ListJobs(list, t.now)->jobs(0).waiting_reason(),
            "tenant a has used 2.2 of its 2 GPU hours of today (gpu-hours-per-day); it goes on at "
            "00:00 UTC");
  // Without a GPU it costs nothing.
  t.Register(TestWorker("c"));
  ASSERT_TRUE(t.Succeed(t.MustLease("c")).ok());
  // A day later an attempt over midnight counts on both days.
  t.Submit(RequestOf("a"));
  t.now = absl::FromUnixSeconds(20'001 * int64_t{86'400}) + absl::Hours(23);
  const v1::Lease night = t.MustLease("g");
  t.now += absl::Minutes(150);
  ASSERT_TRUE(t.Succeed(night).ok());
  t.Submit(RequestOf("a"));
  EXPECT_TRUE(t.Lease("g")->has_lease()) << "1 h 30 min of this day are used";
}

TEST(Quota, SoManyBytesOfArtifacts) {
  QueueOptions options;
  options.tenants.named["a"].artifact_bytes_max = 1000;
  TestQueue t(options);
  t.Register(TestWorker("w"));
  const auto manifest = [](char digest, int64_t bytes) {
    v1::Manifest made;
    made.set_sha256(std::string(64, digest));
    made.add_files()->mutable_blob()->set_sha256(std::string(64, digest));
    made.set_total_bytes(bytes);
    return made;
  };
  ASSERT_TRUE(t.queue->AdmitArtifact("a", manifest('1', 600)).ok());
  ASSERT_TRUE(t.queue->AdmitArtifact("b", manifest('1', 6000)).ok());
  ExpectRefused(t.queue->AdmitArtifact("a", manifest('2', 500)), "artifact-gib-max", "1000", "600");
  // What a job has made is never refused; starting the next one is.
  t.Submit(RequestOf("a"));
  v1::CompleteJobRequest complete;
  *complete.mutable_lease() = t.MustLease();
  *complete.mutable_success()->mutable_output() = manifest('3', 700);
  ASSERT_TRUE(t.queue->CompleteJob(complete, t.now).ok());
  ExpectRefused(t.queue->SubmitJob(RequestOf("a"), t.now).status(), "artifact-gib-max", "1000",
                "1300");
  t.Submit(RequestOf("b"));
}

}  // namespace
}  // namespace quantd
