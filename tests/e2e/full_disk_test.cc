// A disk that fills up under the worker or under the scheduler, and is freed again: clear errors,
// nothing lost, no lease taken away, and everything goes on by itself. QUANTD_FULL_DISK_ROUNDS sets
// how often a real one is filled (the full test: 50).
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "tests/e2e/load.h"
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

// A small file system, in memory. It outlives who uses it.
class SmallDisk {
 public:
  SmallDisk(std::string path, uint64_t mebibytes) : path_(std::move(path)) {
    EXPECT_TRUE(MakeFolders(path_).ok());
    const std::string size = absl::StrCat("size=", mebibytes, "m");
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, size.c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  // All but so many bytes.
  void Fill(int64_t room_bytes) {
    const int fd = open((path_ + "/filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    const std::string zeros(1 << 16, '\0');
    while (write(fd, zeros.data(), zeros.size()) > 0) {
    }
    const off_t size = lseek(fd, 0, SEEK_END);
    EXPECT_EQ(ftruncate(fd, std::max<off_t>(size - room_bytes, 0)), 0);
    close(fd);
  }
  void Free() { EXPECT_EQ(unlink((path_ + "/filler").c_str()), 0); }

 private:
  const std::string path_;
  bool mounted_ = false;
};

// A worker that logs, and a client that submits: once each, without patience.
class Callers {
 public:
  explicit Callers(const std::string& address) : client_({address}) {
    EXPECT_TRUE(RegisterFake(&client_, "workers/logger", "logger").ok());
    EXPECT_TRUE(Submit().ok());
    v1::LeaseJobRequest lease;
    lease.set_worker("workers/logger");
    lease.set_instance_id("logger");
    lease.set_request_id("lease");
    v1::LeaseJobResponse leased;
    EXPECT_TRUE(
        client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::LeaseJob, lease, &leased).ok());
    lease_ = leased.lease();
  }
  grpc::Status Submit() {
    v1::SubmitJobRequest request;
    request.mutable_spec()->mutable_quantize()->set_model("/models/tiny");
    request.mutable_spec()->mutable_quantize()->set_method("rtn");
    v1::SubmitJobResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        v1::JobService::NewStub(client_.channel())->SubmitJob(&context, request, &response);
    if (status.ok()) jobs_.push_back(response.job().name());
    return status;
  }
  grpc::Status Report() {
    constexpr int kLines = 100;
    v1::ReportJobRequest report;
    *report.mutable_lease() = lease_;
    report.set_first_event(reported_ + 1);
    for (int i = 0; i < kLines; ++i) report.add_events()->mutable_log()->set_text(kLine);
    v1::ReportJobResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        v1::WorkerService::NewStub(client_.channel())->ReportJob(&context, report, &response);
    if (status.ok()) reported_ += kLines;
    return status;
  }
  // Everything acknowledged is there, and nothing twice.
  void ExpectAllThere() {
    std::vector<v1::JobEvent> events;
    ASSERT_TRUE(client_.Events(lease_.job(), &events).ok());
    EXPECT_EQ(std::count_if(events.begin(), events.end(),
                            [](const v1::JobEvent& event) { return event.has_log(); }),
              reported_);
    for (size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(events[i].sequence(), static_cast<int64_t>(i) + 1);
    }
    for (const std::string& job : jobs_) {
      v1::GetJobRequest get;
      get.set_name(job);
      v1::Job found;
      EXPECT_TRUE(client_.Ask<v1::JobService>(&v1::JobService::Stub::GetJob, get, &found).ok());
    }
  }
  int64_t reported() const { return reported_; }

 private:
  const std::string kLine = std::string(1000, 'x');
  Client client_;
  v1::Lease lease_;
  int64_t reported_ = 0;
  std::vector<std::string> jobs_;
};

bool IsRefusal(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ||
         status.error_code() == grpc::StatusCode::UNAVAILABLE;
}

TEST(FullDisk, ARealOneTakesNoLeaseAway) {
  constexpr int kLeaseSeconds = 6;
  const uint64_t rounds = FromEnvironment("QUANTD_FULL_DISK_ROUNDS", 1);
  std::mt19937_64 random(ChaosSeed());
  TemporaryFolder folder;
  // What is logged in between stays.
  SmallDisk disk(folder / "scheduler", 96 + 8 * rounds);
  if (!disk.mounted()) GTEST_SKIP() << "no right to mount a file system here";
  Scheduler scheduler(folder / "scheduler", "", kLeaseSeconds);
  ASSERT_FALSE(HasFailure());
  Callers callers(scheduler.address());
  int64_t refused = 0;
  for (uint64_t round = 0; round < rounds && !HasFailure(); ++round) {
    disk.Fill(static_cast<int64_t>(random() % (uint64_t{512} << 10)));
    const absl::Time end = absl::Now() + absl::Seconds(kLeaseSeconds + 2);
    for (bool submit = false; absl::Now() < end && !HasFailure(); submit = !submit) {
      const grpc::Status status = submit ? callers.Submit() : callers.Report();
      refused += status.ok() ? 0 : 1;
      EXPECT_TRUE(status.ok() || IsRefusal(status)) << status.error_message() << scheduler.Log();
      absl::SleepFor(absl::Milliseconds(50));
    }
    disk.Free();
    grpc::Status back = callers.Report();
    for (int tries = 0; tries < 100 && IsRefusal(back); ++tries) {
      absl::SleepFor(absl::Milliseconds(100));
      back = callers.Report();
    }
    EXPECT_TRUE(back.ok()) << back.error_message() << scheduler.Log();
    if (round % 10 == 0) {
      scheduler.Kill();
      scheduler.Start();
    }
  }
  EXPECT_GT(refused, 0);
  callers.ExpectAllThere();
  std::printf("%llu times full: %lld calls refused, %lld events there\n",
              static_cast<unsigned long long>(rounds), static_cast<long long>(refused),
              static_cast<long long>(callers.reported()));
}

}  // namespace
}  // namespace quantd::e2e
