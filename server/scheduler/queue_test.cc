// The queue's promises one by one; their interplay under chaos is simulation_test.cc's.
#include "server/scheduler/queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/scheduler/errors.h"
#include "server/scheduler/queue_testing.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

std::vector<v1::JobState> StatesOf(const std::vector<v1::JobEvent>& events) {
  std::vector<v1::JobState> states;
  for (const v1::JobEvent& event : events) {
    if (event.has_state()) states.push_back(event.state().state());
  }
  return states;
}

TEST(Queue, AResultIsFoundByItsInputsWithinItsTenant) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string digest(64, 'a');
  const auto find = [&](const v1::Lease& lease, const std::string& wanted) {
    v1::FindResultRequest request;
    *request.mutable_lease() = lease;
    request.set_input_digest(wanted);
    return t.queue->FindResult(request, t.now);
  };
  const std::string first = t.Submit(QuantizeRequest());
  v1::CompleteJobRequest complete;
  *complete.mutable_lease() = t.MustLease();
  EXPECT_TRUE(absl::IsNotFound(find(complete.lease(), digest).status()));
  complete.mutable_success()->set_input_digest("short");
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->CompleteJob(complete, t.now).status()));
  complete.mutable_success()->set_input_digest(digest);
  (*complete.mutable_success()->mutable_result()->mutable_fields())["x"].set_number_value(7);
  ASSERT_EQ(t.queue->CompleteJob(complete, t.now)->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(absl::IsAborted(find(complete.lease(), digest).status())) << "only for a lease";

  t.Submit(QuantizeRequest());
  const v1::Lease lease = t.MustLease();
  const auto found = find(lease, digest);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->job(), first);
  EXPECT_EQ(found->success().result().fields().at("x").number_value(), 7);
  EXPECT_TRUE(absl::IsNotFound(find(lease, std::string(64, 'b')).status()));
  ASSERT_TRUE(t.Succeed(lease).ok());
  v1::SubmitJobRequest foreign = QuantizeRequest();
  foreign.set_parent("tenants/other");
  t.Submit(foreign);
  EXPECT_TRUE(absl::IsNotFound(find(t.MustLease(), digest).status()));
}

TEST(Queue, AResultIsForgottenWithItsJob) {
  QueueOptions options;
  options.retention = absl::Hours(1);
  TestQueue t(options);
  t.Register(TestWorker("w"));
  const std::string digest(64, 'a');
  t.Submit(QuantizeRequest());
  v1::CompleteJobRequest complete;
  *complete.mutable_lease() = t.MustLease();
  complete.mutable_success()->set_input_digest(digest);
  ASSERT_TRUE(t.queue->CompleteJob(complete, t.now).ok());
  const auto kept = [&] {
    bool found = false;
    EXPECT_TRUE(t.store
                    ->Read([&](ReadTxn& txn) -> absl::Status {
                      found = txn.FindResult("default", digest)->has_value();
                      return absl::OkStatus();
                    })
                    .ok());
    return found;
  };
  t.Advance(absl::Minutes(59));
  EXPECT_TRUE(kept());
  t.Advance(absl::Minutes(2));
  EXPECT_FALSE(kept());
}

TEST(Queue, WhatIsBeingRemovedIsNotReferredTo) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string sha(64, 'a');
  const auto mark = [&](const std::string& key, bool doomed) {
    ASSERT_TRUE(t.store->Run([&](Txn& txn) {
                         return txn.PutGarbageMark({key, t.now, doomed});
                       })
                    .ok());
  };
  const auto marks = [&] {
    size_t count = 0;
    EXPECT_TRUE(t.store
                    ->Read([&](ReadTxn& txn) -> absl::Status {
                      count = txn.AllGarbageMarks()->size();
                      return absl::OkStatus();
                    })
                    .ok());
    return count;
  };
  v1::SubmitJobRequest submit = QuantizeRequest();
  submit.mutable_spec()->mutable_quantize()->set_model("artifacts/" + sha);
  mark("artifacts/default/" + sha, true);
  const absl::Status refused = t.queue->SubmitJob(submit, t.now).status();
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_TRUE(RetryAfterOf(refused).has_value());
  mark("artifacts/default/" + sha, false);
  t.Submit(submit);
  EXPECT_EQ(marks(), 0u);

  // A file that was uploaded, a checkpoint, an output.
  v1::JobEvent file;
  file.mutable_artifact()->mutable_file()->mutable_blob()->set_sha256(sha);
  v1::JobEvent checkpoint;
  checkpoint.mutable_checkpoint()->set_blocks_done(1);
  *checkpoint.mutable_checkpoint()->mutable_manifest()->add_files() = file.artifact().file();
  v1::CompleteJobRequest complete;
  *complete.mutable_lease() = t.MustLease();
  *complete.mutable_success()->mutable_output()->add_files() = file.artifact().file();
  complete.mutable_success()->mutable_output()->set_sha256(std::string(64, 'b'));
  for (const bool doomed : {true, false}) {
    mark("blobs/" + sha, doomed);
    EXPECT_EQ(t.Report(complete.lease(), 1, {file}).ok(), !doomed);
    mark("blobs/" + sha, doomed);
    EXPECT_EQ(t.Report(complete.lease(), 2, {checkpoint}).ok(), !doomed);
    mark("blobs/" + sha, doomed);
    EXPECT_EQ(t.queue->CompleteJob(complete, t.now).ok(), !doomed);
    EXPECT_EQ(marks(), doomed ? 1u : 0u);
  }
}

TEST(Queue, RunsAJobFromSubmitToSuccess) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  EXPECT_EQ(t.State(job), v1::JOB_STATE_QUEUED);
  const v1::Lease lease = t.MustLease();
  EXPECT_EQ(lease.job(), job);
  EXPECT_EQ(lease.attempt(), 1);
  const auto report = t.Report(lease, 1, {ProgressEvent(1), ProgressEvent(2)});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->accepted_events(), 2);
  EXPECT_EQ(t.Get(job).progress().done(), 2);
  const auto completed = t.Succeed(lease);
  ASSERT_TRUE(completed.ok()) << completed.status();
  EXPECT_EQ(completed->state(), v1::JOB_STATE_SUCCEEDED);
  const v1::Job done = t.Get(job);
  EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(done.output().sha256(), "output of " + job);
  EXPECT_TRUE(done.has_end_time());
  const auto events = t.Events(job);
  ASSERT_EQ(events.size(), 5u);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence(), int64_t(i) + 1);
  EXPECT_EQ(done.last_sequence(), 5);
}

TEST(Queue, TheSameRequestIdIsTheSameJob) {
  TestQueue t;
  const std::string job = t.Submit(QuantizeRequest("r1"));
  EXPECT_EQ(t.Submit(QuantizeRequest("r1")), job);
  auto other = QuantizeRequest("r1");
  other.mutable_spec()->set_priority(3);
  const auto refused = t.queue->SubmitJob(other, t.now);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(refused.status()), kReasonRequestIdReused);
  EXPECT_EQ(t.queue->Counters().idempotent_replays, 1);
  EXPECT_EQ(t.queue->Counters().jobs_submitted["quantize"], 1);
  // Another tenant's request ids are its own.
  auto elsewhere = QuantizeRequest("r1");
  elsewhere.set_parent("tenants/other");
  EXPECT_NE(t.Submit(elsewhere), job);
  t.Advance(absl::Hours(24 * 8));
  EXPECT_NE(t.Submit(QuantizeRequest("r1")), job) << "after 7 days an id is forgotten";
}

TEST(Queue, ARequestIsWhatWasSentHoweverItWasResolved) {
  TestQueue t;
  const auto submit = [&](const std::string& sent, int priority) {
    Submission<v1::SubmitJobRequest> submission = QuantizeRequest("r1");
    submission.request.mutable_spec()->set_priority(priority);
    submission.sent_digest = sent;
    return t.queue->SubmitJob(submission, t.now);
  };
  const auto first = submit("sent", 1);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto again = submit("sent", 2);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->job().name(), first->job().name());
  EXPECT_EQ(again->job().spec().priority(), 1);
  EXPECT_EQ(ReasonOf(submit("sent otherwise", 1).status()), kReasonRequestIdReused);
  // A refusal is for new ones.
  Submission<v1::SubmitJobRequest> refused = QuantizeRequest("r1");
  refused.sent_digest = "sent";
  refused.refusal = absl::InvalidArgumentError("not now");
  EXPECT_TRUE(t.queue->SubmitJob(refused, t.now).ok());
  refused.request.set_request_id("r2");
  EXPECT_EQ(t.queue->SubmitJob(refused, t.now).status(), refused.refusal);
}

// What a scheduler of before kept: the digest of the resolved request.
TEST(Queue, ARequestOfAnEarlierSchedulerIsKnown) {
  TestQueue t;
  const std::string job = t.Submit(QuantizeRequest("r1"));
  Submission<v1::SubmitJobRequest> again = QuantizeRequest("r1");
  again.sent_digest = "sent";
  const auto answered = t.queue->SubmitJob(again, t.now);
  ASSERT_TRUE(answered.ok()) << answered.status();
  EXPECT_EQ(answered->job().name(), job);
}

TEST(Queue, ValidateOnlyStoresNothing) {
  TestQueue t;
  auto request = QuantizeRequest("r1");
  request.set_validate_only(true);
  const auto response = t.queue->SubmitJob(request, t.now);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->job().name(), "");
  EXPECT_EQ(response->job().state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(t.queue->ListJobs({}, t.now)->jobs_size(), 0);
  EXPECT_EQ(t.queue->Counters().jobs_submitted["quantize"], 0);
}

TEST(Queue, RefusesBadSpecsWithTheField) {
  TestQueue t;
  auto request = QuantizeRequest();
  request.mutable_spec()->set_priority(1001);
  EXPECT_THAT(std::string(t.queue->SubmitJob(request, t.now).status().message()),
              HasSubstr("spec.priority"));
  request = QuantizeRequest();
  request.mutable_spec()->clear_kind();
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->SubmitJob(request, t.now).status()));
  request = QuantizeRequest();
  request.mutable_spec()->add_dependencies()->set_job("jobs/aaaa");
  EXPECT_THAT(std::string(t.queue->SubmitJob(request, t.now).status().message()),
              HasSubstr("spec.dependencies[0].job"));
  request = QuantizeRequest();
  request.mutable_spec()->mutable_quantize()->set_model("jobs/zzzz");
  EXPECT_THAT(std::string(t.queue->SubmitJob(request, t.now).status().message()),
              HasSubstr("spec.quantize.model"));
  request = QuantizeRequest();
  request.set_parent("tenants/../etc");
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->SubmitJob(request, t.now).status()));
  request = QuantizeRequest(std::string(37, 'x'));
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->SubmitJob(request, t.now).status()));
}

TEST(Queue, HigherPriorityFirstThenTheOrderOfSubmission) {
  TestQueue t;
  t.Register(TestWorker("w"));
  std::vector<std::string> jobs;
  for (const int priority : {0, 5, 0, 5}) {
    auto request = QuantizeRequest();
    request.mutable_spec()->set_priority(priority);
    jobs.push_back(t.Submit(request));
  }
  EXPECT_EQ(t.Get(jobs[2]).queue_position(), 4);
  EXPECT_EQ(t.Get(jobs[2]).waiting_reason(), "3 jobs ahead");
  for (const int expected : {1, 3, 0, 2}) {
    const v1::Lease lease = t.MustLease();
    EXPECT_EQ(lease.job(), jobs[expected]);
    ASSERT_TRUE(t.Succeed(lease).ok());
  }
}

TEST(Queue, WorkersGetOnlyWhatTheyCanDoAndTheReasonSaysWhy) {
  TestQueue t;
  auto request = QuantizeRequest();
  request.mutable_spec()->mutable_requirements()->set_device("cuda");
  const std::string job = t.Submit(request);
  EXPECT_EQ(t.Get(job).waiting_reason(), "no worker is connected");
  t.Register(TestWorker("w"));
  EXPECT_EQ(t.Get(job).waiting_reason(), "no worker has a cuda device");
  EXPECT_FALSE(t.Lease()->has_lease());
  v1::Worker gpu = TestWorker("gpu");
  v1::Device& device = *gpu.mutable_catalog()->add_devices();
  device.set_type("cuda");
  device.set_memory_bytes(int64_t{16} << 30);
  t.Register(gpu);
  EXPECT_EQ(t.Get(job).waiting_reason(), "next in line for a free worker");
  EXPECT_EQ(t.MustLease("gpu").job(), job);

  for (const auto& [change, reason] :
       std::vector<std::pair<std::function<void(v1::JobSpec*)>, std::string>>{
           {[](auto* s) { s->mutable_quantize()->set_method("awq"); },
            "no worker offers method \"awq\""},
           {[](auto* s) { s->mutable_quantize()->set_format("gguf"); },
            "no worker writes \"rtn\" in format \"gguf\""},
           {[](auto* s) { s->mutable_runtime()->set_device("cuda:0,cuda:1"); },
            "no worker has 2 GPUs"},
           {[](auto* s) { s->mutable_requirements()->set_host_memory_bytes(int64_t{1} << 40); },
            "no worker has 1.00 TiB of host memory"},
           {[](auto* s) { (*s->mutable_requirements()->mutable_worker_labels())["zone"] = "a"; },
            "no worker has the label zone=a"},
           {[](auto* s) { s->mutable_evaluate()->add_tasks()->set_name("arc"); },
            "no worker offers task \"arc\""}}) {
    auto unfit = QuantizeRequest();
    change(unfit.mutable_spec());
    EXPECT_EQ(t.Get(t.Submit(unfit)).waiting_reason(), reason);
    EXPECT_FALSE(t.Lease("w")->has_lease());
  }
}

TEST(Queue, ARepeatedPollGetsTheSameLease) {
  TestQueue t;
  t.Register(TestWorker("w"));
  t.Submit(QuantizeRequest());
  t.Submit(QuantizeRequest());
  const auto first = t.Lease("w", "p1");
  const auto again = t.Lease("w", "p1");
  ASSERT_TRUE(first->has_lease());
  EXPECT_EQ(first->SerializeAsString(), again->SerializeAsString());
  // The answer was lost and the worker polls anew: still the same lease, not a second one.
  EXPECT_EQ(t.Lease("w", "p2")->lease().fencing_token(), first->lease().fencing_token());
  // Once it works on it, it gets nothing else.
  ASSERT_TRUE(t.Report(first->lease()).ok());
  EXPECT_FALSE(t.Lease("w", "p3")->has_lease());
  ASSERT_TRUE(t.Succeed(first->lease()).ok());
  EXPECT_FALSE(t.Lease("w", "p1")->has_lease()) << "a late copy of a poll that was answered";
  EXPECT_TRUE(t.Lease("w", "p4")->has_lease());
  EXPECT_EQ(t.queue->Counters().leases_granted, 2);
}

TEST(Queue, UnknownAndReplacedWorkers) {
  TestQueue t;
  EXPECT_EQ(ReasonOf(t.Lease().status()), kReasonWorkerUnknown);
  t.Register(TestWorker("w"), "i1");
  const std::string job = t.Submit(QuantizeRequest());
  const v1::Lease lease = t.MustLease();
  t.Register(TestWorker("w"), "i2");
  EXPECT_EQ(ReasonOf(t.Lease("w", "", "i1").status()), kReasonInstanceReplaced);
  EXPECT_EQ(ReasonOf(t.Report(lease).status()), kReasonLeaseLost);
  EXPECT_EQ(t.State(job), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(t.Get(job).failure().error_class(), v1::ERROR_CLASS_WORKER_LOST);
  // A late registration of the first process does not take the name back.
  v1::RegisterWorkerRequest late;
  *late.mutable_worker() = TestWorker("w");
  late.set_instance_id("i1");
  EXPECT_EQ(ReasonOf(t.queue->RegisterWorker(late, t.now).status()), kReasonInstanceReplaced);
}

TEST(Queue, EventsAreTakenOnceAndGapsRefused) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  const v1::Lease lease = t.MustLease();
  ASSERT_TRUE(t.Report(lease, 1, {ProgressEvent(1), ProgressEvent(2)}).ok());
  const auto again = t.Report(lease, 1, {ProgressEvent(1), ProgressEvent(2), ProgressEvent(3)});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->accepted_events(), 3);
  const auto gap = t.Report(lease, 5, {ProgressEvent(5)});
  EXPECT_TRUE(absl::IsOutOfRange(gap.status()));
  EXPECT_EQ(ReasonOf(gap.status()), kReasonEventGap);
  v1::JobEvent forged;
  forged.mutable_state()->set_state(v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(absl::IsInvalidArgument(t.Report(lease, 4, {forged}).status()));
  std::vector<int64_t> done;
  for (const v1::JobEvent& event : t.Events(job)) {
    if (event.has_progress()) done.push_back(event.progress().done());
  }
  EXPECT_EQ(done, (std::vector<int64_t>{1, 2, 3}));
}

TEST(Queue, OneOutcomePerAttempt) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  const v1::Lease lease = t.MustLease();
  ASSERT_TRUE(t.Succeed(lease).ok());
  const auto again = t.Succeed(lease);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(ReasonOf(t.Fail(lease, v1::ERROR_CLASS_INTERNAL).status()), kReasonLeaseLost);
  EXPECT_EQ(t.State(job), v1::JOB_STATE_SUCCEEDED);
  const QueueCounters counters = t.queue->Counters();
  EXPECT_EQ(counters.repeated_completions, 1);
  EXPECT_EQ(counters.duplicate_completions, 1);
  EXPECT_EQ((counters.jobs_ended.at({"quantize", v1::JOB_STATE_SUCCEEDED})), 1);
  EXPECT_EQ(StatesOf(t.Events(job)),
            (std::vector<v1::JobState>{v1::JOB_STATE_QUEUED, v1::JOB_STATE_RUNNING,
                                       v1::JOB_STATE_SUCCEEDED}));
}

TEST(Queue, AnExpiredLeaseIsGivenToAnotherAndTheOldOwnerIsFenced) {
  TestQueue t;
  t.Register(TestWorker("w"));
  t.Register(TestWorker("v"));
  const std::string job = t.Submit(QuantizeRequest());
  const v1::Lease old_lease = t.MustLease("w");
  v1::JobEvent saved;
  saved.mutable_checkpoint()->mutable_manifest()->set_sha256("checkpoint");
  ASSERT_TRUE(t.Report(old_lease, 1, {saved}).ok());
  t.now += absl::Seconds(30);
  EXPECT_EQ(ReasonOf(t.Report(old_lease).status()), kReasonLeaseLost) << "not after the expiry";
  t.Advance(absl::ZeroDuration());
  EXPECT_EQ(t.State(job), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(t.Get(job).waiting_reason(), HasSubstr("no worker is connected"));
  t.Advance(absl::Seconds(2));
  const auto response = t.Lease("v");
  ASSERT_TRUE(response->has_lease());
  EXPECT_GT(response->lease().fencing_token(), old_lease.fencing_token());
  EXPECT_EQ(response->lease().attempt(), 2);
  EXPECT_EQ(response->checkpoint().sha256(), "checkpoint");
  EXPECT_EQ(ReasonOf(t.Succeed(old_lease).status()), kReasonLeaseLost);
  EXPECT_EQ(t.State(job), v1::JOB_STATE_RUNNING);
  ASSERT_TRUE(t.Succeed(response->lease()).ok());
  EXPECT_EQ(t.queue->Counters().lease_expirations, 1);
  EXPECT_EQ(t.queue->Counters().fenced_writes, 2);
}

TEST(Queue, RestartGivesEveryLeaseOneFullTerm) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  const v1::Lease lease = t.MustLease();
  t.now += absl::Minutes(20);
  t.Open();
  t.Advance(absl::ZeroDuration());
  ASSERT_TRUE(t.Report(lease).ok());
  t.Advance(absl::Seconds(29));
  EXPECT_EQ(t.State(job), v1::JOB_STATE_RUNNING);
  ASSERT_TRUE(t.Succeed(lease).ok());
}

TEST(Queue, RetriesByClassWithPausesAndABudget) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  for (int attempt = 1; attempt <= 3; ++attempt) {
    const v1::Lease lease = t.MustLease();
    EXPECT_EQ(lease.attempt(), attempt);
    ASSERT_TRUE(t.Fail(lease, v1::ERROR_CLASS_INPUT_UNAVAILABLE).ok());
    if (attempt == 3) break;
    EXPECT_FALSE(t.Lease()->has_lease()) << "pauses first";
    EXPECT_THAT(t.Get(job).waiting_reason(), HasSubstr("waits for retry until"));
    t.Advance(absl::Seconds(5));
  }
  EXPECT_EQ(t.State(job), v1::JOB_STATE_FAILED);
  EXPECT_EQ(t.Get(job).failure().message(), "it broke (3 of 3 attempts used)");
  const std::string bad = t.Submit(QuantizeRequest());
  ASSERT_TRUE(t.Fail(t.MustLease(), v1::ERROR_CLASS_BAD_INPUT).ok());
  EXPECT_EQ(t.State(bad), v1::JOB_STATE_FAILED);
}

TEST(Queue, CrashesAreCountedFromTheLastNewCheckpoint) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  const auto crash_after = [&](int blocks_done) {
    const v1::Lease lease = t.MustLease();
    v1::JobEvent saved;
    saved.mutable_checkpoint()->set_blocks_done(blocks_done);
    ASSERT_TRUE(t.Report(lease, 1, {saved}).ok());
    ASSERT_TRUE(t.Fail(lease, v1::ERROR_CLASS_ENGINE_CRASH).ok());
    t.Advance(absl::Minutes(6));
    t.Register(TestWorker("w"));
  };
  for (int block = 1; block <= 10; ++block) crash_after(block);
  EXPECT_EQ(t.State(job), v1::JOB_STATE_QUEUED) << "ten crashes, each a block further";
  // The same block again and again is no progress.
  crash_after(10);
  EXPECT_EQ(t.State(job), v1::JOB_STATE_QUEUED);
  crash_after(4);
  EXPECT_EQ(t.State(job), v1::JOB_STATE_FAILED);
  EXPECT_THAT(t.Get(job).failure().message(), HasSubstr("3 of 3 attempts used"));
}

TEST(Queue, AJobThatLogsWithoutEndKeepsWhatMatters) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  const v1::Lease lease = t.MustLease();
  v1::JobEvent line, fallback;
  line.mutable_log()->set_text("again");
  fallback.mutable_fallback()->set_kind("cpu");
  const std::vector<v1::JobEvent> batch(10'000, line);
  int64_t next = 1;
  for (int i = 0; i < 21; ++i, next += 10'000) ASSERT_TRUE(t.Report(lease, next, batch).ok());
  ASSERT_TRUE(t.Report(lease, next, {fallback}).ok());
  const int64_t last = t.Get(job).last_sequence();
  EXPECT_LT(last, 200'010);
  v1::WatchJobRequest watch;
  watch.set_name(job);
  watch.set_after_sequence(last - 1);
  const auto page = t.queue->ReadEvents(watch);
  ASSERT_TRUE(page.ok()) << page.status();
  ASSERT_EQ(page->events.size(), 1);
  EXPECT_EQ(page->events[0].fallback().kind(), "cpu");
}

TEST(Queue, ReleasesAndPreemptionsAreFree) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  for (int i = 0; i < 10; ++i) {
    const v1::Lease lease = t.MustLease();
    if (i % 2 == 0) {
      v1::ReleaseJobRequest release;
      *release.mutable_lease() = lease;
      release.set_reason("preempted");
      ASSERT_TRUE(t.queue->ReleaseJob(release, t.now).ok());
      ASSERT_TRUE(t.queue->ReleaseJob(release, t.now).ok()) << "again is fine";
      EXPECT_EQ(ReasonOf(t.Succeed(lease).status()), kReasonLeaseLost);
    } else {
      ASSERT_TRUE(t.Fail(lease, v1::ERROR_CLASS_PREEMPTED).ok());
    }
    EXPECT_EQ(t.State(job), v1::JOB_STATE_QUEUED);
    t.Advance(absl::Minutes(6));
    t.Register(TestWorker("w"));
  }
  ASSERT_TRUE(t.Succeed(t.MustLease()).ok());
}

TEST(Queue, TheThreeClocks) {
  TestQueue t;
  auto request = QuantizeRequest();
  request.mutable_spec()->mutable_limits()->mutable_queue_time()->set_seconds(60);
  const std::string queued = t.Submit(request);
  t.Advance(absl::Seconds(59));
  EXPECT_EQ(t.State(queued), v1::JOB_STATE_QUEUED);
  t.Advance(absl::Seconds(1));
  EXPECT_EQ(t.State(queued), v1::JOB_STATE_FAILED);
  EXPECT_EQ(t.Get(queued).failure().error_class(), v1::ERROR_CLASS_QUEUE_TIMEOUT);

  t.Register(TestWorker("w"));
  request = QuantizeRequest();
  request.mutable_spec()->mutable_limits()->mutable_run_time()->set_seconds(50);
  const std::string running = t.Submit(request);
  const auto leased = t.Lease();
  EXPECT_EQ(leased->run_time_left().seconds(), 50);
  for (int i = 1; i <= 3; ++i) {
    t.now += absl::Seconds(16);
    ASSERT_TRUE(t.Report(leased->lease(), i, {ProgressEvent(i)}).ok());
  }
  t.Advance(absl::Seconds(3));
  EXPECT_EQ(t.Get(running).failure().error_class(), v1::ERROR_CLASS_RUN_TIMEOUT);
  EXPECT_EQ(t.State(running), v1::JOB_STATE_FAILED);

  const std::string hung = t.Submit(QuantizeRequest());
  const v1::Lease lease = t.MustLease();
  v1::JobEvent line;
  line.mutable_log()->set_text("still here");
  for (int i = 1; i <= 60; ++i) {
    ASSERT_TRUE(t.Report(lease, i, {line}).ok()) << "logs renew the lease but are no progress";
    t.Advance(absl::Seconds(15));
  }
  EXPECT_EQ(t.State(hung), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(t.Get(hung).failure().error_class(), v1::ERROR_CLASS_NO_PROGRESS);
}

TEST(Queue, CancelInEveryState) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const auto cancel = [&](const std::string& job) {
    v1::CancelJobRequest request;
    request.set_name(job);
    request.set_reason("changed my mind");
    auto answer = t.queue->CancelJob(request, t.now);
    QD_CHECK(answer.ok(), "", answer.status().ToString());
    return answer->state();
  };
  const std::string running = t.Submit(QuantizeRequest());
  auto dependent = QuantizeRequest();
  dependent.mutable_spec()->mutable_quantize()->set_model("jobs/" +
                                                          running.substr(running.rfind('/') + 1));
  const std::string pending = t.Submit(dependent);
  EXPECT_EQ(t.State(pending), v1::JOB_STATE_PENDING);
  EXPECT_THAT(t.Get(pending).waiting_reason(), HasSubstr("waits for " + running));
  EXPECT_EQ(cancel(pending), v1::JOB_STATE_CANCELLED);
  const std::string queued = t.Submit(QuantizeRequest());
  EXPECT_EQ(cancel(queued), v1::JOB_STATE_CANCELLED);

  const v1::Lease lease = t.MustLease();
  EXPECT_EQ(cancel(running), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(cancel(running), v1::JOB_STATE_CANCELLING);
  const auto report = t.Report(lease);
  EXPECT_TRUE(report->cancel_requested());
  EXPECT_EQ(report->cancel_reason(), "changed my mind");
  v1::CompleteJobRequest complete;
  *complete.mutable_lease() = lease;
  complete.mutable_cancelled();
  EXPECT_EQ(t.queue->CompleteJob(complete, t.now)->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(cancel(running), v1::JOB_STATE_CANCELLED);

  const std::string deaf = t.Submit(QuantizeRequest());
  const v1::Lease deaf_lease = t.MustLease();
  EXPECT_EQ(cancel(deaf), v1::JOB_STATE_CANCELLING);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(t.Report(deaf_lease).ok());
    t.Advance(absl::Seconds(15));
  }
  EXPECT_EQ(t.State(deaf), v1::JOB_STATE_CANCELLED)
      << "a worker that does not stop is not waited for";
  EXPECT_EQ(ReasonOf(t.Succeed(deaf_lease).status()), kReasonLeaseLost);

  const std::string quick = t.Submit(QuantizeRequest());
  const v1::Lease quick_lease = t.MustLease();
  EXPECT_EQ(cancel(quick), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(t.Succeed(quick_lease)->state(), v1::JOB_STATE_SUCCEEDED) << "it was done already";
  EXPECT_EQ(cancel(quick), v1::JOB_STATE_SUCCEEDED);
}

TEST(Queue, DependentsRunOrAreSkippedInTheSameTransaction) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string first = t.Submit(QuantizeRequest());
  const auto after = [&](v1::Dependency::Condition condition, const std::string& on) {
    auto request = QuantizeRequest();
    auto& dependency = *request.mutable_spec()->add_dependencies();
    dependency.set_job(on);
    dependency.set_condition(condition);
    return t.Submit(request);
  };
  const std::string needs_it = after(v1::Dependency::SUCCEEDED, first);
  const std::string chained = after(v1::Dependency::SUCCEEDED, needs_it);
  const std::string after_it = after(v1::Dependency::FINISHED, first);
  ASSERT_TRUE(t.Fail(t.MustLease(), v1::ERROR_CLASS_BAD_INPUT).ok());
  EXPECT_EQ(t.State(needs_it), v1::JOB_STATE_SKIPPED);
  EXPECT_EQ(t.State(chained), v1::JOB_STATE_SKIPPED);
  EXPECT_EQ(t.State(after_it), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(t.State(after(v1::Dependency::SUCCEEDED, first)), v1::JOB_STATE_SKIPPED);

  v1::RetryJobRequest retry;
  retry.set_name(chained);
  EXPECT_TRUE(absl::IsFailedPrecondition(t.queue->RetryJob(retry, t.now).status()));
  retry.set_name(first);
  EXPECT_EQ(t.queue->RetryJob(retry, t.now)->state(), v1::JOB_STATE_QUEUED);
  retry.set_name(needs_it);
  EXPECT_EQ(t.queue->RetryJob(retry, t.now)->state(), v1::JOB_STATE_PENDING);
  const v1::Lease lease = t.MustLease();
  EXPECT_EQ(lease.job(), first);
  EXPECT_EQ(lease.attempt(), 2) << "numbers go on, the budget is new";
  ASSERT_TRUE(t.Succeed(lease).ok());
  EXPECT_EQ(t.State(needs_it), v1::JOB_STATE_QUEUED);
  retry.set_name(first);
  EXPECT_TRUE(absl::IsFailedPrecondition(t.queue->RetryJob(retry, t.now).status()));
}

TEST(Queue, LeasesCarryTheInputs) {
  QueueOptions options;
  bool away = true;
  options.find_manifest = [&](const std::string& tenant,
                              const std::string& sha256) -> absl::StatusOr<v1::Manifest> {
    if (away) return absl::UnavailableError("the artifacts are away");
    v1::Manifest manifest;
    manifest.set_sha256(tenant + ":" + sha256);
    return manifest;
  };
  TestQueue t(options);
  t.Register(TestWorker("w"));
  const std::string first = t.Submit(QuantizeRequest());
  const std::string reference = "jobs/" + first.substr(first.rfind('/') + 1);
  v1::SubmitJobRequest request;
  auto& evaluate = *request.mutable_spec()->mutable_evaluate();
  evaluate.set_model(reference);
  evaluate.add_tasks()->set_name("perplexity");
  evaluate.mutable_tasks(0)->set_data("artifacts/abc");
  t.Submit(request);
  ASSERT_TRUE(t.Succeed(t.MustLease()).ok());
  EXPECT_TRUE(absl::IsUnavailable(t.Lease().status()));
  away = false;
  const auto response = t.Lease();
  EXPECT_EQ(response->lease().attempt(), 1) << "waiting for the artifacts costs nothing";
  ASSERT_EQ(response->inputs_size(), 2);
  EXPECT_EQ(response->inputs(0).reference(), reference);
  EXPECT_EQ(response->inputs(0).manifest().sha256(), "output of " + first);
  EXPECT_EQ(response->inputs(0).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(response->inputs(0).spec().has_quantize());
  EXPECT_EQ(response->inputs(1).manifest().sha256(), "default:abc");
}

TEST(Queue, ListsAndPages) {
  TestQueue t;
  std::vector<std::string> jobs;
  for (int i = 0; i < 7; ++i) {
    auto request = QuantizeRequest();
    (*request.mutable_spec()->mutable_labels())["parity"] = i % 2 == 0 ? "even" : "odd";
    jobs.push_back(t.Submit(request));
  }
  v1::ListJobsRequest request;
  request.set_page_size(2);
  (*request.mutable_labels())["parity"] = "even";
  std::vector<std::string> seen;
  while (true) {
    const auto page = t.queue->ListJobs(request, t.now);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const v1::Job& job : page->jobs()) seen.push_back(job.name());
    if (page->next_page_token().empty()) break;
    request.set_page_token(page->next_page_token());
  }
  EXPECT_EQ(seen, (std::vector<std::string>{jobs[6], jobs[4], jobs[2], jobs[0]}));
  request.set_page_token(t.queue->ListJobs(v1::ListJobsRequest(), t.now)->next_page_token());
  v1::ListJobsRequest all;
  all.set_page_size(1);
  const std::string token = t.queue->ListJobs(all, t.now)->next_page_token();
  request.set_page_token(token);
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->ListJobs(request, t.now).status()));
  request.set_page_token("nonsense");
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->ListJobs(request, t.now).status()));
  request.clear_page_token();
  request.set_page_size(-1);
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->ListJobs(request, t.now).status()));
  v1::GetJobRequest foreign;
  foreign.set_name("tenants/other/jobs/" + jobs[0].substr(jobs[0].rfind('/') + 1));
  EXPECT_TRUE(absl::IsNotFound(t.queue->GetJob(foreign, t.now).status()));
}

TEST(Queue, EventsPageAndFilter) {
  TestQueue t;
  t.Register(TestWorker("w"));
  const std::string job = t.Submit(QuantizeRequest());
  const v1::Lease lease = t.MustLease();
  std::vector<v1::JobEvent> events;
  for (int i = 1; i <= 20; ++i) events.push_back(ProgressEvent(i));
  ASSERT_TRUE(t.Report(lease, 1, events).ok());
  v1::WatchJobRequest watch;
  watch.set_name(job);
  std::vector<int64_t> sequences;
  while (true) {
    const auto page = t.queue->ReadEvents(watch, 7);
    ASSERT_TRUE(page.ok());
    for (const v1::JobEvent& event : page->events) sequences.push_back(event.sequence());
    watch.set_after_sequence(page->next_sequence);
    EXPECT_FALSE(page->finished);
    if (page->at_end) break;
  }
  ASSERT_EQ(sequences.size(), 22u);
  for (size_t i = 0; i < sequences.size(); ++i) EXPECT_EQ(sequences[i], int64_t(i) + 1);
  ASSERT_TRUE(t.Succeed(lease).ok());
  watch.set_after_sequence(0);
  watch.add_kinds("log");
  auto page = t.queue->ReadEvents(watch);
  EXPECT_EQ(StatesOf(page->events).size(), page->events.size()) << "states always come";
  EXPECT_EQ(page->events.size(), 3u);
  EXPECT_TRUE(page->finished);
  watch.add_kinds("gossip");
  EXPECT_TRUE(absl::IsInvalidArgument(t.queue->ReadEvents(watch).status()));
}

TEST(Queue, TellsTheObserverAfterTheCommit) {
  struct Recorder : QueueObserver {
    void JobChanged(const std::string& job, const std::string&, int64_t last_sequence,
                    v1::JobState state) override {
      changes.push_back(absl::StrCat(last_sequence, " ", v1::JobState_Name(state)));
    }
    void JobsRunnable() override { ++runnable; }
    std::vector<std::string> changes;
    int runnable = 0;
  } recorder;
  QueueOptions options;
  options.observer = &recorder;
  TestQueue t(options);
  t.Submit(QuantizeRequest());
  EXPECT_EQ(recorder.changes, std::vector<std::string>{"1 JOB_STATE_QUEUED"});
  EXPECT_EQ(recorder.runnable, 1);
  t.Register(TestWorker("w"));
  ASSERT_TRUE(t.Fail(t.MustLease(), v1::ERROR_CLASS_INPUT_UNAVAILABLE).ok());
  const int before = recorder.runnable;
  t.Advance(absl::Seconds(2));
  EXPECT_EQ(recorder.runnable, before + 1) << "the end of a pause wakes the polls";
}

TEST(Queue, CatalogIsTheUnionOverTheLiving) {
  TestQueue t;
  t.Register(TestWorker("w"));
  v1::Worker other = TestWorker("v");
  other.mutable_catalog()->add_methods()->set_name("awq");
  t.Register(other);
  auto catalog = t.queue->GetCatalog(t.now);
  ASSERT_EQ(catalog->methods_size(), 3);
  EXPECT_EQ(catalog->methods(0).name(), "awq");
  t.Advance(absl::Seconds(31));
  EXPECT_EQ(t.queue->GetCatalog(t.now)->methods_size(), 0);
  EXPECT_EQ(t.queue->ListWorkers({}, t.now)->workers(0).state(), v1::Worker::LOST);
  t.Advance(absl::Hours(2));
  EXPECT_EQ(t.queue->ListWorkers({}, t.now)->workers_size(), 0);
}

}  // namespace
}  // namespace quantd
