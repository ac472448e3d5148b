// The planner's graph, and sweeps in the queue: planned, limited, cancelled, retried.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "google/protobuf/util/json_util.h"
#include "server/scheduler/queue_testing.h"
#include "server/scheduler/sweep_planner.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::SweepSpec SpecFromJson(const std::string& json) {
  v1::SweepSpec spec;
  const auto status = google::protobuf::util::JsonStringToMessage(json, &spec);
  QD_CHECK(status.ok(), "", status.ToString());
  return spec;
}

std::function<std::string()> Counter() {
  return [n = std::make_shared<int>(0)] { return absl::StrCat("j", ++*n); };
}

constexpr char kSmall[] = R"({
  "displayName": "demo", "models": ["org/tiny"],
  "variants": [{"method": "rtn", "options": {"bits": 4}},
               {"method": "gptq", "options": {"bits": [4, 3], "group_size": 128}}],
  "tasks": [{"name": "perplexity"}], "benchmark": {"decodeTokens": 8}})";

std::vector<std::string> Names(const std::vector<v1::VariantSpec>& variants) {
  std::vector<std::string> names;
  for (const v1::VariantSpec& variant : variants) names.push_back(variant.name());
  return names;
}

TEST(SweepPlanner, ListsBecomeTheirProductWithNames) {
  auto spec = SpecFromJson(R"({"variants": [{"method": "gptq", "options":
      {"bits": [8, 4], "group_size": 128, "desc_act": [true, false], "damp": 0.01}}]})");
  EXPECT_THAT(Names(*ExpandVariant(spec.variants(0), "v")),
              ElementsAre("gptq-b8-g128-desc_act-on", "gptq-b8-g128-desc_act-off",
                          "gptq-b4-g128-desc_act-on", "gptq-b4-g128-desc_act-off"));
  spec.mutable_variants(0)->set_name("mine");
  EXPECT_THAT(Names(*ExpandVariant(spec.variants(0), "v")),
              ElementsAre("mine-b8-desc_act-on", "mine-b8-desc_act-off", "mine-b4-desc_act-on",
                          "mine-b4-desc_act-off"));
  const auto expanded = *ExpandVariant(spec.variants(0), "v");
  EXPECT_EQ(expanded[0].options().fields().at("bits").number_value(), 8);
  EXPECT_EQ(expanded[3].options().fields().at("bits").number_value(), 4);
}

TEST(SweepPlanner, PlansTheGraph) {
  const auto plan = PlanSweep(SpecFromJson(kSmall), Counter());
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->cells.size(), 4u);
  EXPECT_TRUE(plan->cells[0].baseline());
  EXPECT_EQ(plan->cells[0].stages_size(), 2);
  EXPECT_EQ(plan->cells[2].name(), "gptq-b4-g128");
  ASSERT_EQ(plan->cells[2].stages_size(), 5);
  EXPECT_EQ(plan->cells[2].stages(0).kind(), "quantize");
  EXPECT_EQ(plan->cells[2].stages(3).kind(), "benchmark");
  EXPECT_EQ(plan->cells[2].stages(4).kind(), "compare");
  ASSERT_EQ(plan->jobs.size(), 2 + 3 * 5 + 1u);
  // Every reference and dependency points backwards.
  std::set<std::string> known;
  for (const PlannedJob& job : plan->jobs) {
    for (const v1::Dependency& dependency : job.spec.dependencies()) {
      EXPECT_TRUE(known.count(dependency.job())) << job.kind << " waits for " << dependency.job();
    }
    known.insert("jobs/" + job.id);
  }
  EXPECT_EQ(plan->jobs[1].spec.benchmark().baseline(), "");
  EXPECT_EQ(plan->jobs[5].spec.benchmark().baseline(), "org/tiny");
  const v1::CompareSpec& compare = plan->jobs[plan->jobs.size() - 2].spec.compare();
  ASSERT_EQ(compare.variants_size(), 2);
  EXPECT_TRUE(compare.variants(0).baseline());
  EXPECT_EQ(compare.variants(1).name(), plan->cells[3].name());
  EXPECT_EQ(compare.variants(1).jobs_size(), 4);
  const v1::JobSpec& report = plan->jobs.back().spec;
  EXPECT_EQ(plan->jobs.back().id, plan->report_id);
  ASSERT_EQ(report.report().variants_size(), 4);
  EXPECT_TRUE(report.report().variants(0).baseline());
  EXPECT_EQ(report.report().variants(3).jobs_size(), 4);
  EXPECT_EQ(report.dependencies_size(), 14);
  for (const v1::Dependency& dependency : report.dependencies()) {
    EXPECT_EQ(dependency.condition(), v1::Dependency::FINISHED);
  }
}

TEST(SweepPlanner, RefusesWithTheField) {
  const auto message = [](const std::string& json) {
    return std::string(PlanSweep(SpecFromJson(json), Counter()).status().message());
  };
  EXPECT_THAT(message(R"({"variants": [{"method": "rtn"}]})"), HasSubstr("spec.models"));
  EXPECT_THAT(message(R"({"models": ["a"]})"), HasSubstr("spec.variants"));
  EXPECT_THAT(message(R"({"models": ["a", "a"], "variants": [{"method": "rtn"}]})"),
              HasSubstr("spec.models[1]"));
  EXPECT_THAT(message(R"({"models": ["a"], "variants": [{"method": "rtn"}, {"method": "rtn"}]})"),
              HasSubstr("spec.variants[1].name"));
  EXPECT_THAT(message(R"({"models": ["a"], "variants": [{"options": {"bits": 4}}]})"),
              HasSubstr("spec.variants[0].method"));
  EXPECT_THAT(
      message(R"({"models": ["a"], "variants": [{"method": "rtn", "options": {"bits": []}}]})"),
      HasSubstr("spec.variants[0].options.bits"));
  std::string list = "1";
  for (int i = 2; i <= 40; ++i) absl::StrAppend(&list, ",", i);
  EXPECT_THAT(
      message(absl::StrCat(R"({"models": ["a"], "variants": [{"method": "rtn", "options": {"x": [)",
                           list, R"(], "y": [)", list, "]}}]}")),
      HasSubstr("more than 1000"));
}

struct SweepQueue : TestQueue {
  explicit SweepQueue(const std::string& json) {
    v1::SubmitSweepRequest request;
    *request.mutable_spec() = SpecFromJson(json);
    request.set_request_id("s1");
    auto response = queue->SubmitSweep(request, now);
    QD_CHECK(response.ok(), "", response.status().ToString());
    name = response->sweep().name();
    QD_CHECK(queue->SubmitSweep(request, now)->sweep().name() == name);
  }
  v1::Sweep GetSweep() {
    v1::GetSweepRequest request;
    request.set_name(name);
    auto sweep = queue->GetSweep(request);
    QD_CHECK(sweep.ok(), "", sweep.status().ToString());
    return *std::move(sweep);
  }
  // Runs everything there is; jobs of `failing` kinds fail for good. Returns the kinds in order.
  std::vector<std::string> RunAll(const std::string& failing = "") {
    std::vector<std::string> kinds;
    while (true) {
      const auto leased = Lease();
      QD_CHECK(leased.ok(), "", leased.status().ToString());
      if (!leased->has_lease()) return kinds;
      const v1::JobSpec& spec = leased->spec();
      const std::string kind = spec.has_quantize()    ? "quantize"
                               : spec.has_verify()    ? "verify"
                               : spec.has_evaluate()  ? "evaluate"
                               : spec.has_benchmark() ? "benchmark"
                               : spec.has_compare()   ? "compare"
                                                      : "report";
      kinds.push_back(kind);
      if (kind == "report") report_inputs = leased->inputs_size();
      if (kind == failing) {
        QD_CHECK(Fail(leased->lease(), v1::ERROR_CLASS_BAD_INPUT).ok());
      } else {
        QD_CHECK(Succeed(leased->lease()).ok());
      }
    }
  }
  std::string name;
  int report_inputs = 0;
};

TEST(Sweep, RunsToItsReport) {
  SweepQueue t(kSmall);
  t.Register(TestWorker("w"));
  EXPECT_EQ(t.GetSweep().state(), v1::JOB_STATE_RUNNING);
  const auto kinds = t.RunAll();
  EXPECT_EQ(kinds.size(), 18u);
  EXPECT_EQ(kinds.back(), "report");
  EXPECT_EQ(t.report_inputs, 14);
  const v1::Sweep sweep = t.GetSweep();
  EXPECT_EQ(sweep.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(sweep.has_end_time());
  EXPECT_EQ(sweep.cells(1).stages(0).state(), v1::JOB_STATE_SUCCEEDED);

  v1::WatchSweepRequest watch;
  watch.set_name(t.name);
  int count = 0;
  int64_t jobs_created = 0;
  while (true) {
    const auto page = t.queue->ReadSweepEvents(watch, 10);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const v1::SweepEvent& event : page->events) {
      ++count;
      jobs_created += event.event().sequence() == 1;
    }
    watch.set_resume_token(page->next_token);
    if (page->finished) break;
    ASSERT_FALSE(page->at_end);
  }
  EXPECT_EQ(jobs_created, 18);
  EXPECT_GE(count, 18 * 3);
  watch.set_resume_token("x");
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->ReadSweepEvents(watch).status()));
}

TEST(Sweep, OneFailureSkipsOnlyItsOwnAndTheReportStillComes) {
  SweepQueue t(kSmall);
  t.Register(TestWorker("w"));
  const auto kinds = t.RunAll("verify");
  // Evaluate and benchmark of the three variants are skipped; baseline, comparisons and report run.
  EXPECT_EQ(kinds.size(), 2 + 3 * 3 + 1u);
  EXPECT_EQ(kinds.back(), "report");
  EXPECT_EQ(t.GetSweep().state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(t.GetSweep().cells(1).stages(2).state(), v1::JOB_STATE_SKIPPED);

  v1::RetrySweepRequest retry;
  retry.set_name(t.name);
  const auto retried = t.queue->RetrySweep(retry, t.now);
  ASSERT_TRUE(retried.ok()) << retried.status();
  EXPECT_EQ(retried->state(), v1::JOB_STATE_RUNNING);
  EXPECT_FALSE(retried->has_end_time());
  EXPECT_EQ(t.RunAll().size(), 3 * 4 + 1u)
      << "what succeeded is not done again, what compares it is";
  EXPECT_EQ(t.GetSweep().state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(Sweep, ARetryComparesOnlyWhatChanged) {
  SweepQueue t(kSmall);
  t.Register(TestWorker("w"));
  // The second variant's quantize job alone fails.
  int quantized = 0;
  for (auto leased = t.Lease(); leased->has_lease(); leased = t.Lease()) {
    const bool fails = leased->spec().has_quantize() && ++quantized == 2;
    ASSERT_TRUE(fails ? t.Fail(leased->lease(), v1::ERROR_CLASS_BAD_INPUT).ok()
                      : t.Succeed(leased->lease()).ok());
  }
  ASSERT_EQ(t.GetSweep().state(), v1::JOB_STATE_FAILED);
  v1::RetrySweepRequest retry;
  retry.set_name(t.name);
  ASSERT_TRUE(t.queue->RetrySweep(retry, t.now).ok());
  EXPECT_THAT(t.RunAll(),
              ElementsAre("quantize", "verify", "evaluate", "benchmark", "compare", "report"));
  EXPECT_EQ(t.GetSweep().state(), v1::JOB_STATE_SUCCEEDED);
}

TEST(Sweep, AFailedEvaluationDoesNotStopTheBenchmark) {
  SweepQueue t(kSmall);
  t.Register(TestWorker("w"));
  EXPECT_EQ(t.RunAll("evaluate").size(), 18u);
}

TEST(Sweep, MaxParallelLimitsLeases) {
  SweepQueue t(
      R"({"models": ["m"], "variants": [{"method": "rtn", "options": {"bits": [2, 3, 4, 8]}}],
                   "skipVerify": true, "maxParallel": 2})");
  for (const char* id : {"a", "b", "c"}) t.Register(TestWorker(id));
  const v1::Lease a = t.MustLease("a");
  t.MustLease("b");
  EXPECT_FALSE(t.Lease("c")->has_lease());
  v1::ListJobsRequest list;
  list.set_sweep(t.name);
  list.add_states(v1::JOB_STATE_QUEUED);
  const auto waiting = t.queue->ListJobs(list, t.now);
  ASSERT_EQ(waiting->jobs_size(), 2);
  EXPECT_THAT(t.Get(waiting->jobs(0).name()).waiting_reason(), HasSubstr("2 of at most 2"));
  ASSERT_TRUE(t.Succeed(a).ok());
  EXPECT_TRUE(t.Lease("c")->has_lease());
}

TEST(Sweep, CancelEndsAllOfIt) {
  SweepQueue t(kSmall);
  t.Register(TestWorker("w"));
  const v1::Lease lease = t.MustLease();
  v1::CancelSweepRequest cancel;
  cancel.set_name(t.name);
  ASSERT_TRUE(t.queue->CancelSweep(cancel, t.now).ok());
  EXPECT_EQ(t.State(lease.job()), v1::JOB_STATE_CANCELLING);
  t.Advance(absl::Seconds(31));
  EXPECT_EQ(t.State(lease.job()), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(t.GetSweep().state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(t.queue->Statistics(t.now)->JobsIn(v1::JOB_STATE_CANCELLED), 18);
}

TEST(Sweep, ValidateOnlyShowsTheJobs) {
  TestQueue t;
  v1::SubmitSweepRequest request;
  *request.mutable_spec() = SpecFromJson(kSmall);
  request.set_validate_only(true);
  const auto response = t.queue->SubmitSweep(request, t.now);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->jobs_size(), 18);
  EXPECT_EQ(response->sweep().cells_size(), 4);
  EXPECT_EQ(t.queue->ListSweeps({})->sweeps_size(), 0);
  EXPECT_EQ(t.queue->ListJobs({}, t.now)->jobs_size(), 0);
}

TEST(Sweep, RetentionRemovesWholeSweepsOnly) {
  SweepQueue t(kSmall);
  t.options.retention = absl::Hours(1);
  t.Open();
  t.Register(TestWorker("w"));
  t.RunAll();
  const std::string waiting = t.Submit(QuantizeRequest());
  t.Advance(absl::Minutes(59));
  EXPECT_EQ(t.queue->Statistics(t.now)->JobsIn(v1::JOB_STATE_SUCCEEDED), 18);
  for (int i = 0; i < 8; ++i) t.Advance(absl::Minutes(10));
  EXPECT_EQ(t.queue->Statistics(t.now)->JobsIn(v1::JOB_STATE_SUCCEEDED), 0);
  EXPECT_EQ(t.queue->ListSweeps({})->sweeps_size(), 0);
  EXPECT_EQ(t.State(waiting), v1::JOB_STATE_QUEUED);
}

}  // namespace
}  // namespace quantd
