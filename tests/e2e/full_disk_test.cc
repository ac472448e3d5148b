// A disk that fills up under the worker or under the scheduler, and is freed again: clear errors,
// nothing lost, and everything goes on by itself.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/e2e/service.h"

namespace quantd::e2e {
namespace {

using ::testing::HasSubstr;

// The service whose worker's or scheduler's folder is on a disk that can be filled.
Service::Options OnDisk(const std::string& process) {
  return {.preload = std::string(QUANTD_BINARY_DIR) + "/lib/libquantd_faults.so",
          .preloaded = process};
}

void Fill(Service& service, const std::string& process) {
  ASSERT_TRUE(WriteFileAtomic(service / absl::StrCat(process, ".full"), "").ok());
}
void Free(Service& service, const std::string& process) {
  ASSERT_EQ(unlink((service / absl::StrCat(process, ".full")).c_str()), 0);
}

bool Any(const std::vector<v1::JobEvent>& events,
         const std::function<bool(const v1::JobEvent&)>& wanted) {
  return std::any_of(events.begin(), events.end(), wanted);
}

TEST(FullDisk, UnderTheWorkerFailsTheAttemptAndTheJobGoesOnWhenThereIsRoom) {
  Service service(OnDisk("worker-0"));
  v1::JobSpec spec = QuantizeTiny("gptq", R"({"bits": 4, "group_size": 128})");
  spec.mutable_retry()->set_max_attempts(100);
  spec.mutable_retry()->mutable_backoff()->set_nanos(200'000'000);
  spec.mutable_retry()->mutable_backoff_max()->set_seconds(1);
  const v1::Job first = service.Await(service.Submit(spec, "undisturbed"), absl::Minutes(3));
  ASSERT_EQ(first.state(), v1::JOB_STATE_SUCCEEDED) << first.ShortDebugString() << service.Logs();

  const std::string job = service.Submit(spec, "disturbed");
  const auto wait_for = [&](const std::function<bool(const v1::JobEvent&)>& wanted) {
    for (int i = 0; i < 1200; ++i) {
      if (Any(service.Events(job), wanted)) return true;
      absl::SleepFor(absl::Milliseconds(100));
    }
    return false;
  };
  ASSERT_TRUE(wait_for([](const v1::JobEvent& event) { return event.has_checkpoint(); }));
  Fill(service, "worker-0");
  std::string message;
  EXPECT_TRUE(wait_for([&](const v1::JobEvent& event) {
    if (event.has_failure()) message = event.failure().ShortDebugString();
    return event.failure().error_class() == v1::ERROR_CLASS_DISK_FULL;
  })) << message
      << service.Logs();
  EXPECT_THAT(message, HasSubstr("No space left on device"));
  EXPECT_TRUE(service.worker(0).Running());
  Free(service, "worker-0");
  const v1::Job done = service.Await(job, absl::Minutes(3));
  EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED) << done.ShortDebugString() << service.Logs();
  EXPECT_EQ(WeightDigests(done), WeightDigests(first));
}

TEST(FullDisk, UnderTheSchedulerRefusesNewWorkKeepsTheOldAndTakesItAgain) {
  Service service(OnDisk("scheduler"));
  const v1::JobSpec spec = QuantizeTiny("rtn", R"({"bits": 4, "group_size": 128})");
  const std::string before = service.Submit(spec, "before");
  ASSERT_EQ(service.Await(before, absl::Minutes(2)).state(), v1::JOB_STATE_SUCCEEDED)
      << service.Logs();

  auto stub = v1::JobService::NewStub(
      grpc::CreateChannel(service.address(), grpc::InsecureChannelCredentials()));
  const auto submit = [&] {
    grpc::ClientContext context;
    v1::SubmitJobRequest request;
    *request.mutable_spec() = spec;
    request.set_request_id("after");
    v1::SubmitJobResponse response;
    return stub->SubmitJob(&context, request, &response);
  };
  Fill(service, "scheduler");
  const grpc::Status refused = submit();
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(refused.error_message(), HasSubstr("full")) << refused.error_code();
  EXPECT_TRUE(service.Get(before).has_value()) << "reading goes on";
  EXPECT_TRUE(service.scheduler().Running());
  Free(service, "scheduler");
  grpc::Status taken = submit();
  for (int i = 0; i < 100 && !taken.ok(); ++i) {
    absl::SleepFor(absl::Milliseconds(100));
    taken = submit();
  }
  ASSERT_TRUE(taken.ok()) << taken.error_message();
  EXPECT_EQ(service.Await(service.Submit(spec, "after"), absl::Minutes(2)).state(),
            v1::JOB_STATE_SUCCEEDED)
      << service.Logs();
}

}  // namespace
}  // namespace quantd::e2e
