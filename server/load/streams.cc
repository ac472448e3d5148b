// Watchers are reactors, for a thread each would measure this program; idle connections are bare
// sockets that say hello in HTTP/2 and then nothing.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <ostream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "server/load/measure.h"

namespace quantd::load {
namespace {

constexpr int kLogLines = 4'000;
constexpr int kLinesPerReport = 100;
constexpr int kRounds = 250;  // Of 20 ms, after the last line.
// So many refusals show that there is a limit.
constexpr int kRefusals = 100;

class Watcher final : public grpc::ClientReadReactor<v1::JobEvent> {
 public:
  Watcher(const Target& target, const std::string& job, bool slow)
      : slow_(slow), stub_(v1::JobService::NewStub(Connect(target))) {
    request_.set_name(job);
    stub_->async()->WatchJob(&context_, &request_, this);
    AddHold();  // Reads begin outside of the reactions, too.
    StartRead(&event_);
    StartCall();
  }
  // A slow one reads once a turn.
  void Turn() {
    if (slow_ && waiting_.exchange(false)) StartRead(&event_);
  }
  void End() {
    context_.TryCancel();
    RemoveHold();
    done_.WaitForNotification();
  }
  int64_t events() const { return events_; }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    ++events_;
    if (slow_) {
      waiting_ = true;
    } else {
      StartRead(&event_);
    }
  }
  void OnDone(const grpc::Status&) override { done_.Notify(); }

 private:
  const bool slow_;
  const std::unique_ptr<v1::JobService::Stub> stub_;
  grpc::ClientContext context_;
  v1::WatchJobRequest request_;
  v1::JobEvent event_;
  std::atomic<bool> waiting_{false};
  std::atomic<int64_t> events_{0};
  absl::Notification done_;
};

// A connection that stays silent after the greeting, as a client's between two calls; -1: refused.
int OpenIdle(const sockaddr_in& to) {
  // Preface, empty settings, acknowledgement of the other side's.
  static constexpr char kGreeting[] =
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\0\4\1\0\0\0\0";
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  timeval limit = {.tv_sec = 10, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  char answer[9];
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0 &&
      send(fd, kGreeting, sizeof kGreeting - 1, MSG_NOSIGNAL) > 0 &&
      recv(fd, answer, sizeof answer, MSG_PEEK | MSG_WAITALL) == sizeof answer) {
    return fd;
  }
  close(fd);
  return -1;
}

// Frames are small and come whole: a frame that is cut by the buffer's end is a bug of the measure.
void AnswerPings(int fd) {
  constexpr ssize_t kHeader = 9;
  constexpr uint8_t kPing = 6;
  constexpr uint8_t kAcknowledged = 1;
  uint8_t bytes[4096];
  const ssize_t got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
  for (ssize_t at = 0; at + kHeader <= got;) {
    const ssize_t size = kHeader + (bytes[at] << 16 | bytes[at + 1] << 8 | bytes[at + 2]);
    if (at + size <= got && bytes[at + 3] == kPing && (bytes[at + 4] & kAcknowledged) == 0) {
      bytes[at + 4] |= kAcknowledged;
      send(fd, bytes + at, static_cast<size_t>(size), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    at += size;
  }
}

// How long another client's call takes: with a connection of its own.
void MeasureCall(const Target& target, const std::string& when) {
  v1::ListJobsRequest request;
  request.set_page_size(1);
  v1::ListJobsResponse response;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  const absl::Time sent = absl::Now();
  const grpc::Status status =
      v1::JobService::NewStub(Connect(target))->ListJobs(&context, request, &response);
  target.out << "a new client's first call, " << when << ": "
             << (status.ok() ? absl::StrCat(absl::ToDoubleMilliseconds(absl::Now() - sent), " ms")
                             : status.error_message())
             << "\n";
}

}  // namespace

void MeasureWatchers(const Target& target, const v1::Lease& lease, int watchers) {
  const Usage before = UsageOf(target);
  std::vector<std::unique_ptr<Watcher>> all;
  for (int i = 0; i < watchers; ++i) {
    all.push_back(std::make_unique<Watcher>(target, lease.job(), /*slow=*/i % 2 == 1));
  }
  const auto stub = v1::WorkerService::NewStub(Connect(target));
  Usage peak;
  const auto look = [&] {
    const Usage now = UsageOf(target);
    peak.resident_bytes = std::max(peak.resident_bytes, now.resident_bytes);
    peak.threads = std::max(peak.threads, now.threads);
    peak.files = std::max(peak.files, now.files);
    for (const auto& watcher : all) watcher->Turn();
  };
  for (int line = 0; line < kLogLines; line += kLinesPerReport) {
    v1::ReportJobRequest report;
    *report.mutable_lease() = lease;
    report.set_first_event(line + 1);
    for (int i = 0; i < kLinesPerReport; ++i) {
      report.add_events()->mutable_log()->set_text(std::string(500, 'x'));
    }
    grpc::ClientContext context;
    v1::ReportJobResponse response;
    const grpc::Status status = stub->ReportJob(&context, report, &response);
    if (!status.ok()) target.out << "report: " << status.error_message() << "\n";
    look();
  }
  for (int i = 0; i < kRounds; ++i) {
    absl::SleepFor(absl::Milliseconds(20));
    look();
  }
  MeasureCall(target, "beside the watchers");
  int64_t events = 0;
  for (const auto& watcher : all) watcher->End();
  for (const auto& watcher : all) events += watcher->events();
  target.out << watchers << " watchers of one job, " << kLogLines
             << " lines of 500 B, half of them slow: " << Words(before) << " before; "
             << Words(peak) << " at most, "
             << FormatBytes(peak.resident_bytes - before.resident_bytes) << " more; " << events
             << " events delivered\n";
}

IdleConnections::IdleConnections(const Target& target, int connections) : target_(target) {
  int open = 0;
  while (open < connections && Add()) ++open;
  thread_ = std::thread([this] { Answer(); });
  target.out << open << " idle connections: " << Words(UsageOf(target)) << "\n";
  MeasureCall(target, "beside them");
}

IdleConnections::~IdleConnections() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
  absl::MutexLock lock(&mutex_);
  for (const int fd : open_) close(fd);
}

bool IdleConnections::Add() {
  const size_t colon = target_.address.rfind(':');
  int port = 0;
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  if (!absl::SimpleAtoi(target_.address.substr(colon + 1), &port) ||
      inet_pton(AF_INET, target_.address.substr(0, colon).c_str(), &to.sin_addr) != 1) {
    return false;
  }
  to.sin_port = htons(static_cast<uint16_t>(port));
  const int fd = OpenIdle(to);
  if (fd < 0) return false;
  absl::MutexLock lock(&mutex_);
  open_.push_back(fd);
  return true;
}

void IdleConnections::Answer() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stop_), absl::Seconds(1))) return;
      for (const int fd : open_) AnswerPings(fd);
    }
  }
}

void IdleConnections::MeasureRefusals() {
  int open = 0;
  int refused = 0;
  while (refused < kRefusals && open < getdtablesize()) (Add() ? open : refused) += 1;
  target_.out << refused << " refused after " << open << " more: " << Words(UsageOf(target_))
              << "\n";
  {
    absl::MutexLock lock(&mutex_);
    for (const int fd : std::exchange(open_, {})) close(fd);
  }
  absl::SleepFor(absl::Seconds(1));
  MeasureCall(target_, "after they have gone");
  target_.out << "scheduler: " << Words(UsageOf(target_)) << "\n";
}

}  // namespace quantd::load
