// Many at once: watches and connections that ask nothing cost memory within bounds and no thread
// each; one too many is refused, also by a scheduler that has no descriptor left, and whoever was
// there before goes on. What a compressed message would become counts, too. QUANTD_LIMIT_STREAMS
// and QUANTD_LIMIT_CONNECTIONS set how many (the full test: 1,000 and 10,000).
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "server/acceptor.h"
#include "tests/e2e/load.h"

namespace quantd::e2e {
namespace {

constexpr int64_t kMemoryMax = int64_t{1} << 30;
constexpr int64_t kThreadsMax = 64;  // Beside one for each core.

// A field of the process's status: kibibytes, or a count.
int64_t StatusOf(pid_t pid, const std::string& field) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string word; status >> word;) {
    int64_t value = 0;
    if (word == field + ":" && status >> value) return value;
  }
  return -1;
}

// Connections that say nothing. One that was let in is greeted.
class Sockets {
 public:
  explicit Sockets(const std::string& address) {
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
    to_.sin_family = AF_INET;
    to_.sin_port = htons(static_cast<uint16_t>(port));
    to_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  ~Sockets() { Close(); }
  bool Add(absl::Duration limit) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    open_.push_back(fd);
    const timeval wait = absl::ToTimeval(limit);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    char greeting[9];
    return connect(fd, reinterpret_cast<const sockaddr*>(&to_), sizeof to_) == 0 &&
           recv(fd, greeting, sizeof greeting, MSG_WAITALL) == sizeof greeting;
  }
  void Close() {
    for (const int fd : std::exchange(open_, {})) close(fd);
  }

 private:
  sockaddr_in to_ = {};
  std::vector<int> open_;
};

// A watch on a connection of its own, without a thread.
class Watch final : public grpc::ClientReadReactor<v1::JobEvent> {
 public:
  Watch(const std::string& address, const std::string& job)
      : client_({address}), stub_(v1::JobService::NewStub(client_.channel())) {
    request_.set_name(job);
    stub_->async()->WatchJob(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  // Waits for its first event, or for the end.
  bool Began() {
    began_.WaitForNotification();
    return event_.sequence() > 0;
  }
  grpc::Status End() {
    context_.TryCancel();
    done_.WaitForNotification();
    return status_;
  }
  void OnReadDone(bool) override { began_.Notify(); }
  void OnDone(const grpc::Status& status) override {
    status_ = status;
    done_.Notify();
  }

 private:
  Client client_;
  const std::unique_ptr<v1::JobService::Stub> stub_;
  grpc::ClientContext context_;
  v1::WatchJobRequest request_;
  v1::JobEvent event_;
  grpc::Status status_;
  absl::Notification began_;
  absl::Notification done_;
};

std::string SubmitOne(const std::string& address) {
  v1::SubmitJobRequest request;
  request.mutable_spec()->mutable_quantize()->set_model("/models/tiny");
  request.mutable_spec()->mutable_quantize()->set_method("rtn");
  v1::SubmitJobResponse response;
  const grpc::Status status =
      Client({address}).Ask<v1::JobService>(&v1::JobService::Stub::SubmitJob, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.job().name();
}

TEST(Limits, ManyWatchesAndConnectionsFitAndOneTooManyIsRefused) {
  RaiseOpenFilesLimit();
  const auto streams = static_cast<int>(FromEnvironment("QUANTD_LIMIT_STREAMS", 30));
  const auto idle = static_cast<int>(FromEnvironment("QUANTD_LIMIT_CONNECTIONS", 200));
  const int connections_max = streams + idle + 20;
  TemporaryFolder folder;
  Scheduler scheduler(
      folder / "scheduler", "", /*lease_seconds=*/30,
      {"--streams-max", absl::StrCat(streams), "--connections-max", absl::StrCat(connections_max)});
  ASSERT_FALSE(HasFailure());
  const std::string job = SubmitOne(scheduler.address());
  std::vector<std::unique_ptr<Watch>> watches;
  for (int i = 0; i < streams; ++i) {
    watches.push_back(std::make_unique<Watch>(scheduler.address(), job));
  }
  for (const auto& watch : watches) EXPECT_TRUE(watch->Began());
  Sockets sockets(scheduler.address());
  for (int i = 0; i < idle; ++i) EXPECT_TRUE(sockets.Add(absl::Seconds(30))) << i;
  const pid_t pid = scheduler.process().pid();
  const int64_t memory = StatusOf(pid, "VmRSS") << 10;
  const int64_t threads = StatusOf(pid, "Threads");
  EXPECT_LT(memory, kMemoryMax);
  EXPECT_LT(threads, kThreadsMax + static_cast<int64_t>(std::thread::hardware_concurrency()));
  std::printf("%d watches and %d idle connections: %lld MiB, %lld threads\n", streams, idle,
              static_cast<long long>(memory >> 20), static_cast<long long>(threads));
  // A watch too many is told when to come again.
  Watch another(scheduler.address(), job);
  EXPECT_FALSE(another.Began());
  EXPECT_EQ(another.End().error_code(), grpc::StatusCode::UNAVAILABLE);
  // Connections too many are closed, and nobody else's.
  int let_in = 0;
  while (let_in <= connections_max && sockets.Add(absl::Seconds(30))) ++let_in;
  EXPECT_LT(let_in, 40);
  for (const auto& watch : watches) {
    EXPECT_EQ(watch->End().error_code(), grpc::StatusCode::CANCELLED);
  }
  sockets.Close();
  SubmitOne(scheduler.address());
}

TEST(Limits, ASchedulerWithoutADescriptorLeftAcceptsAgainWhenThereIsOne) {
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "", /*lease_seconds=*/30);
  ASSERT_FALSE(HasFailure());
  SubmitOne(scheduler.address());
  const rlimit few = {.rlim_cur = 100, .rlim_max = 100};
  ASSERT_EQ(prlimit(scheduler.process().pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  Sockets sockets(scheduler.address());
  int let_in = 0;
  while (let_in < 200 && sockets.Add(absl::Milliseconds(500))) ++let_in;
  EXPECT_GT(let_in, 10);
  EXPECT_LT(let_in, 100);
  sockets.Close();
  SubmitOne(scheduler.address());
  EXPECT_EQ(scheduler.Stop(), 0);
}

// A thousand bytes in place of one: what gRPC limits is what travels.
TEST(Limits, ACompressedMessageIsRefusedBeforeItIsUnpacked) {
  constexpr size_t kUnpackedBytes = size_t{128} << 20;
  constexpr int64_t kGrowthMaxKib = int64_t{64} << 10;
  TemporaryFolder folder;
  Scheduler scheduler(folder / "scheduler", "", /*lease_seconds=*/30);
  ASSERT_FALSE(HasFailure());
  SubmitOne(scheduler.address());
  const pid_t pid = scheduler.process().pid();
  const int64_t before = StatusOf(pid, "VmHWM");
  v1::SubmitJobRequest request;
  request.mutable_spec()->mutable_quantize()->set_model(std::string(kUnpackedBytes, 'a'));
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ChannelArguments arguments;
    arguments.SetCompressionAlgorithm(algorithm);
    const auto stub = v1::JobService::NewStub(grpc::CreateCustomChannel(
        scheduler.address(), grpc::InsecureChannelCredentials(), arguments));
    grpc::ClientContext context;
    v1::SubmitJobResponse response;
    const grpc::Status status = stub->SubmitJob(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
  EXPECT_LT(StatusOf(pid, "VmHWM") - before, kGrowthMaxKib);
  SubmitOne(scheduler.address());
}

}  // namespace
}  // namespace quantd::e2e
