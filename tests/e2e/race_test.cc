// A cancel and the outcome of the same job meet, in every order that two threads and a server bring
// about: one of them wins, both callers are told the same, and the job ends once.
// QUANTD_CANCEL_RACES sets how many (the full test: 1,000).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/e2e/load.h"

namespace quantd::e2e {
namespace {

// A worker that only leases; the outcomes are the test's.
v1::Lease LeaseOne(Client* client, const std::string& request_id) {
  v1::LeaseJobRequest request;
  request.set_worker("workers/racer");
  request.set_instance_id("racer");
  request.set_request_id(request_id);
  request.mutable_wait()->set_seconds(2);
  v1::LeaseJobResponse response;
  const grpc::Status status =
      client->Ask<v1::WorkerService>(&v1::WorkerService::Stub::LeaseJob, request, &response);
  EXPECT_TRUE(status.ok() && response.has_lease()) << status.error_message();
  return response.lease();
}

TEST(Races, OfACancelAndAnOutcomeOneWinsAndAllAreToldTheSame) {
  const uint64_t seed = ChaosSeed();
  std::mt19937_64 random(seed);
  const int races = static_cast<int>(FromEnvironment("QUANTD_CANCEL_RACES", 60));
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "", /*lease_seconds=*/30);
  ASSERT_FALSE(HasFailure());
  Client client({scheduler.address()});
  Client other({scheduler.address()});
  ASSERT_TRUE(RegisterFake(&client, "workers/racer", "racer").ok());
  std::map<v1::JobState, int> ends;
  for (int i = 0; i < races && !HasFailure(); ++i) {
    v1::SubmitJobRequest submit;
    submit.mutable_spec()->mutable_quantize()->set_model("/models/tiny");
    submit.mutable_spec()->mutable_quantize()->set_method("rtn");
    submit.mutable_spec()->mutable_retry()->set_max_attempts(1);
    v1::SubmitJobResponse submitted;
    ASSERT_TRUE(
        client.Ask<v1::JobService>(&v1::JobService::Stub::SubmitJob, submit, &submitted).ok());
    const v1::Lease lease = LeaseOne(&client, absl::StrCat("race-", i));
    ASSERT_EQ(lease.job(), submitted.job().name());
    v1::CompleteJobRequest outcome;
    *outcome.mutable_lease() = lease;
    const bool succeeds = random() % 2 == 0;
    if (succeeds) {
      outcome.mutable_success();
    } else {
      outcome.mutable_failure()->set_error_class(v1::ERROR_CLASS_ENGINE_CRASH);
    }
    v1::CompleteJobResponse completed;
    v1::CancelJobRequest cancel;
    cancel.set_name(lease.job());
    v1::Job cancelled;
    // Either may be some tenths of a millisecond ahead.
    const absl::Duration head_start = absl::Microseconds(random() % 600);
    const bool cancel_waits = random() % 2 == 0;
    grpc::Status completion, cancellation;
    std::thread canceller([&] {
      if (cancel_waits) absl::SleepFor(head_start);
      cancellation =
          other.Ask<v1::JobService>(&v1::JobService::Stub::CancelJob, cancel, &cancelled);
    });
    if (!cancel_waits) absl::SleepFor(head_start);
    completion =
        client.Ask<v1::WorkerService>(&v1::WorkerService::Stub::CompleteJob, outcome, &completed);
    canceller.join();
    EXPECT_TRUE(cancellation.ok()) << cancellation.error_message();
    EXPECT_TRUE(completion.ok()) << completion.error_message();
    v1::GetJobRequest get;
    get.set_name(lease.job());
    v1::Job job;
    ASSERT_TRUE(client.Ask<v1::JobService>(&v1::JobService::Stub::GetJob, get, &job).ok());
    // The cancel came first, and waited for the worker, or second, and changed nothing. Work that
    // is done stays done.
    const bool first = cancelled.state() == v1::JOB_STATE_CANCELLING;
    EXPECT_EQ(job.state(), succeeds ? v1::JOB_STATE_SUCCEEDED
                           : first  ? v1::JOB_STATE_CANCELLED
                                    : v1::JOB_STATE_FAILED);
    EXPECT_EQ(completed.state(), job.state());
    EXPECT_TRUE(first || cancelled.state() == job.state()) << cancelled.ShortDebugString();
    std::vector<v1::JobEvent> events;
    ASSERT_TRUE(client.Events(lease.job(), &events).ok());
    const auto last = std::count_if(events.begin(), events.end(), [](const v1::JobEvent& event) {
      return event.has_state() && event.state().state() >= v1::JOB_STATE_SUCCEEDED;
    });
    EXPECT_EQ(last, 1) << lease.job();
    ++ends[job.state()];
  }
  for (const auto& [state, count] : ends) {
    std::printf("%s: %d\n", v1::JobState_Name(state).c_str(), count);
  }
}

}  // namespace
}  // namespace quantd::e2e
