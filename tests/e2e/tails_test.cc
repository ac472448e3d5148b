// Two hundred tails that read a kilobyte a second of a job that logs as fast as the scheduler takes
// it: the scheduler's memory stays within bounds, others are answered in time, and a tail misses
// nothing. QUANTD_TAIL_SECONDS sets how long (the full test: 600, for which the temporary folder's
// disk needs room: what is logged stays).
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/file.h"
#include "proto/channel.h"
#include "server/acceptor.h"
#include "tests/e2e/load.h"

namespace quantd::e2e {
namespace {

constexpr int kTails = 200;
constexpr int64_t kGrowthMax = int64_t{256} << 20;
constexpr double kUnaryMsMax = 100;  // p99.
constexpr int kLineBytes = 1000;
constexpr int kLinesPerReport = 100;
constexpr int kReportsPerJob = 1500;  // Below what a job may log.
// More than any scheduler here has taken; database and its log.
constexpr int64_t kDiskBytesPerSecond = int64_t{64} << 20;

int64_t ResidentBytes(pid_t pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string word; status >> word;) {
    int64_t kibibytes = 0;
    if (word == "VmRSS:" && status >> kibibytes) return kibibytes << 10;
  }
  return -1;
}

std::string Line(int64_t number) {
  std::string line = absl::StrCat(number, " ");
  line.resize(kLineBytes, 'x');
  return line;
}

// Without the window of megabytes that gRPC opens to a sender as fast as this one: its reader is
// not.
std::shared_ptr<grpc::Channel> Narrow(const std::string& address) {
  grpc::ChannelArguments arguments = ClientChannelArguments();
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Reads one event a turn.
class Tail final : public grpc::ClientReadReactor<v1::JobEvent> {
 public:
  Tail(const std::string& address, const std::string& job)
      : stub_(v1::JobService::NewStub(Narrow(address))) {
    request_.set_name(job);
    stub_->async()->WatchJob(&context_, &request_, this);
    AddHold();
    StartRead(&event_);
    StartCall();
  }
  void Turn() {
    if (waiting_.exchange(false)) StartRead(&event_);
  }
  void End() {
    context_.TryCancel();
    RemoveHold();
    done_.WaitForNotification();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.sequence() > 0 && event_.sequence() != ++last_) ++gaps_;
    if (event_.has_log() && event_.log().text() != Line(lines_++)) ++gaps_;
    waiting_ = true;
  }
  void OnDone(const grpc::Status&) override { done_.Notify(); }
  int64_t lines() const { return lines_; }
  int64_t gaps() const { return gaps_; }

 private:
  const std::unique_ptr<v1::JobService::Stub> stub_;
  grpc::ClientContext context_;
  v1::WatchJobRequest request_;
  v1::JobEvent event_;
  int64_t last_ = 0;
  std::atomic<int64_t> lines_{0};
  std::atomic<int64_t> gaps_{0};
  std::atomic<bool> waiting_{false};
  absl::Notification done_;
};

// A worker that logs and does nothing else; job after job.
class Logger {
 public:
  explicit Logger(const std::string& address) : client_({address}) {
    EXPECT_TRUE(RegisterFake(&client_, "workers/logger", "logger").ok());
    Next();
  }
  const std::string& job() const { return report_.lease().job(); }
  // So many reports a second, for so long.
  double Log(absl::Duration time) {
    const absl::Time start = absl::Now();
    int64_t reports = 0;
    for (; absl::Now() < start + time; ++reports) {
      if (reports_ == kReportsPerJob) Next();
      report_.clear_events();
      report_.set_first_event(reports_ * kLinesPerReport + 1);
      for (int i = 0; i < kLinesPerReport; ++i) {
        report_.add_events()->mutable_log()->set_text(Line(reports_ * kLinesPerReport + i));
      }
      ++reports_;
      v1::ReportJobResponse response;
      const grpc::Status status =
          client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::ReportJob, report_, &response);
      EXPECT_TRUE(status.ok()) << status.error_message();
    }
    return static_cast<double>(reports) / absl::ToDoubleSeconds(absl::Now() - start);
  }

 private:
  void Next() {
    if (jobs_ > 0) {
      v1::CompleteJobRequest complete;
      *complete.mutable_lease() = report_.lease();
      complete.mutable_success();
      v1::CompleteJobResponse completed;
      EXPECT_TRUE(
          client_
              .Ask<v1::WorkerService>(&v1::WorkerService::Stub::CompleteJob, complete, &completed)
              .ok());
    }
    v1::SubmitJobRequest submit;
    submit.mutable_spec()->mutable_quantize()->set_model("/models/tiny");
    submit.mutable_spec()->mutable_quantize()->set_method("rtn");
    v1::SubmitJobResponse submitted;
    EXPECT_TRUE(
        client_.Ask<v1::JobService>(&v1::JobService::Stub::SubmitJob, submit, &submitted).ok());
    v1::LeaseJobRequest lease;
    lease.set_worker("workers/logger");
    lease.set_instance_id("logger");
    lease.set_request_id(absl::StrCat("log-", jobs_++));
    v1::LeaseJobResponse leased;
    EXPECT_TRUE(
        client_.Ask<v1::WorkerService>(&v1::WorkerService::Stub::LeaseJob, lease, &leased).ok());
    *report_.mutable_lease() = leased.lease();
    reports_ = 0;
  }

  Client client_;
  v1::ReportJobRequest report_;
  int64_t reports_ = 0;
  int jobs_ = 0;
};

TEST(Tails, ManySlowOnesCostLittleAndMissNothing) {
  RaiseOpenFilesLimit();
  const absl::Duration time = absl::Seconds(FromEnvironment("QUANTD_TAIL_SECONDS", 4));
  TemporaryFolder folder;
  const int64_t disk_bytes = absl::ToInt64Seconds(time) * kDiskBytesPerSecond;
  if (FreeDiskBytes(folder.path()).value_or(0) < disk_bytes) {
    GTEST_SKIP() << folder.path() << " needs " << FormatBytes(disk_bytes) << " of free disk";
  }
  Scheduler scheduler(folder / "scheduler", "", /*lease_seconds=*/30);
  ASSERT_FALSE(HasFailure());
  Logger logger(scheduler.address());
  const std::string job = logger.job();
  const double alone = logger.Log(std::min(time / 4, absl::Seconds(20)));
  const int64_t before = ResidentBytes(scheduler.process().pid());
  std::vector<std::unique_ptr<Tail>> tails;
  for (int i = 0; i < kTails; ++i) {
    tails.push_back(std::make_unique<Tail>(scheduler.address(), job));
  }
  std::atomic<bool> stop{false};
  int64_t peak = 0;
  std::vector<double> calls;
  std::thread others([&] {
    Client client({scheduler.address()});
    while (!stop) {
      absl::SleepFor(absl::Milliseconds(50));
      v1::GetJobRequest get;
      get.set_name(job);
      v1::Job found;
      const absl::Time sent = absl::Now();
      EXPECT_TRUE(client.Ask<v1::JobService>(&v1::JobService::Stub::GetJob, get, &found).ok());
      calls.push_back(absl::ToDoubleMilliseconds(absl::Now() - sent));
      peak = std::max(peak, ResidentBytes(scheduler.process().pid()));
    }
  });
  std::thread turns([&] {
    while (!stop) {
      for (const auto& tail : tails) tail->Turn();
      absl::SleepFor(time >= absl::Minutes(1) ? absl::Seconds(1) : absl::Milliseconds(100));
    }
  });
  const double beside = logger.Log(time);
  // The first line may take its time where little of the machine is ours.
  const auto reads = [](const auto& tail) { return tail->lines() > 0; };
  for (int i = 0; i < 600 && !std::all_of(tails.begin(), tails.end(), reads); ++i) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  stop = true;
  others.join();
  turns.join();
  int64_t lines = 0;
  for (const auto& tail : tails) {
    tail->End();
    EXPECT_GT(tail->lines(), 0);
    EXPECT_EQ(tail->gaps(), 0);
    lines += tail->lines();
  }
  std::sort(calls.begin(), calls.end());
  const double p99 = calls[calls.size() * 99 / 100];
  EXPECT_LT(peak - before, kGrowthMax);
  // At first all of them fill their windows, which takes seconds.
  if (time >= absl::Minutes(1)) {
    EXPECT_LT(p99, kUnaryMsMax);
  }
  const double megabytes = kLinesPerReport * kLineBytes / 1e6;
  std::printf(
      "%d tails read %lld lines: scheduler %lld MiB, before %lld MiB; log %.1f MB/s, alone %.1f "
      "MB/s; others' calls p99 %.1f ms\n",
      kTails, static_cast<long long>(lines), static_cast<long long>(peak >> 20),
      static_cast<long long>(before >> 20), beside * megabytes, alone * megabytes, p99);
}

}  // namespace
}  // namespace quantd::e2e
