// quantd_load READY_FILE: measures a running scheduler over its sockets and prints three figures:
// durable submits a second over 64 clients, lease latency with 10,000 jobs queued, and what 200
// watchers of one job cost in resident memory. Start the scheduler on a fresh --data folder, for
// its queue is filled.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "proto/channel.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"

namespace quantd {
namespace {

constexpr int kClients = 64;
constexpr int kJobs = 10'000;
constexpr int kLeases = 1'000;
constexpr int kWatchers = 200;
constexpr int kLogLines = 4'000;

// The value of "key" in the ready file: a string or a number.
std::string Value(const std::string& json, const std::string& key) {
  const size_t at = json.find(absl::StrCat("\"", key, "\": "));
  if (at == std::string::npos) return "";
  std::string rest = json.substr(at + key.size() + 4);
  if (!rest.empty() && rest[0] == '"') return rest.substr(1, rest.find('"', 1) - 1);
  return rest.substr(0, rest.find_first_of(",}"));
}

int64_t ResidentBytes(const std::string& pid) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) != 0) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t kib = 0;
    return absl::SimpleAtoi(words[1], &kib) ? kib << 10 : 0;
  }
  return 0;
}

// Every client has a connection of its own.
std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments = ClientChannelArguments();
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void Quantile(std::vector<double> values, const char* what) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double q) {
    return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
  };
  std::cout << what << ": p50 " << at(.5) << " ms, p99 " << at(.99) << " ms, max " << values.back()
            << " ms\n";
}

void Submits(const std::string& address) {
  std::atomic<int> next{0};
  std::atomic<int> failed{0};
  std::vector<std::vector<double>> took(kClients);
  std::vector<std::thread> threads;
  const absl::Time start = absl::Now();
  for (int client = 0; client < kClients; ++client) {
    threads.emplace_back([&, client] {
      auto stub = v1::JobService::NewStub(Connect(address));
      for (int number = next++; number < kJobs; number = next++) {
        v1::SubmitJobRequest request;
        request.mutable_spec()->mutable_quantize()->set_model("/models/none");
        request.mutable_spec()->mutable_quantize()->set_method("rtn");
        request.set_request_id(absl::StrCat("load-", absl::ToUnixNanos(start), "-", number));
        grpc::ClientContext context;
        v1::SubmitJobResponse response;
        const absl::Time sent = absl::Now();
        if (!stub->SubmitJob(&context, request, &response).ok()) ++failed;
        took[static_cast<size_t>(client)].push_back(absl::ToDoubleMilliseconds(absl::Now() - sent));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::cout << "submits: " << kJobs << " over " << kClients << " clients in " << seconds
            << " s = " << kJobs / seconds << " /s, failed " << failed << "\n";
  std::vector<double> all;
  for (const auto& each : took) all.insert(all.end(), each.begin(), each.end());
  Quantile(std::move(all), "submit latency");
}

// Leases and gives back, so that the queue stays full. Returns the last lease, kept.
v1::Lease Leases(const std::string& address) {
  auto stub = v1::WorkerService::NewStub(Connect(address));
  {
    v1::RegisterWorkerRequest request;
    request.mutable_worker()->set_name("workers/load");
    request.set_instance_id(absl::StrCat(absl::ToUnixNanos(absl::Now())));
    request.mutable_worker()->mutable_catalog()->add_kinds("quantize");
    v1::MethodInfo& method = *request.mutable_worker()->mutable_catalog()->add_methods();
    method.set_name("rtn");
    method.add_formats("gptq");
    request.mutable_worker()->mutable_catalog()->add_devices()->set_type("cpu");
    grpc::ClientContext context;
    v1::RegisterWorkerResponse response;
    const grpc::Status status = stub->RegisterWorker(&context, request, &response);
    if (!status.ok()) std::cout << "register: " << status.error_message() << "\n";
    std::vector<double> took;
    v1::Lease lease;
    for (int i = 0; i < kLeases; ++i) {
      v1::LeaseJobRequest poll;
      poll.set_worker("workers/load");
      poll.set_instance_id(request.instance_id());
      poll.set_request_id(absl::StrCat("poll-", i));
      v1::LeaseJobResponse leased;
      grpc::ClientContext poll_context;
      const absl::Time sent = absl::Now();
      const grpc::Status answer = stub->LeaseJob(&poll_context, poll, &leased);
      took.push_back(absl::ToDoubleMilliseconds(absl::Now() - sent));
      if (!answer.ok() || !leased.has_lease()) {
        std::cout << "lease " << i << ": " << answer.error_message() << "\n";
        break;
      }
      lease = leased.lease();
      if (i == kLeases - 1) break;
      v1::CompleteJobRequest complete;
      *complete.mutable_lease() = lease;
      complete.mutable_success();
      grpc::ClientContext complete_context;
      v1::CompleteJobResponse completed;
      stub->CompleteJob(&complete_context, complete, &completed);
    }
    Quantile(std::move(took), "lease latency with a full queue");
    return lease;
  }
}

void Watchers(const std::string& address, const std::string& pid, const v1::Lease& lease) {
  const int64_t before = ResidentBytes(pid);
  std::atomic<int64_t> events{0};
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  for (int i = 0; i < kWatchers; ++i) contexts.push_back(std::make_unique<grpc::ClientContext>());
  for (int i = 0; i < kWatchers; ++i) {
    threads.emplace_back([&, i] {
      auto stub = v1::JobService::NewStub(Connect(address));
      v1::WatchJobRequest request;
      request.set_name(lease.job());
      auto reader = stub->WatchJob(contexts[static_cast<size_t>(i)].get(), request);
      v1::JobEvent event;
      while (reader->Read(&event)) {
        ++events;
        // Every second one reads slowly.
        if (i % 2 == 1) absl::SleepFor(absl::Milliseconds(20));
      }
      reader->Finish();
    });
  }
  auto stub = v1::WorkerService::NewStub(Connect(address));
  int64_t peak = 0;
  for (int line = 0; line < kLogLines; line += 100) {
    v1::ReportJobRequest report;
    *report.mutable_lease() = lease;
    report.set_first_event(line + 1);
    for (int i = 0; i < 100; ++i)
      report.add_events()->mutable_log()->set_text(std::string(500, 'x'));
    grpc::ClientContext context;
    v1::ReportJobResponse response;
    const grpc::Status status = stub->ReportJob(&context, report, &response);
    if (!status.ok()) std::cout << "report: " << status.error_message() << "\n";
    peak = std::max(peak, ResidentBytes(pid));
  }
  for (int i = 0; i < 50; ++i) {
    absl::SleepFor(absl::Milliseconds(100));
    peak = std::max(peak, ResidentBytes(pid));
  }
  std::cout << kWatchers << " watchers of one job, " << kLogLines
            << " lines of 500 B, half of them slow: " << FormatBytes(before) << " before, "
            << FormatBytes(peak) << " at most, " << FormatBytes(peak - before) << " more; "
            << events << " events delivered\n";
  for (const auto& context : contexts) context->TryCancel();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace quantd

int main(int argc, char** argv) {
  const auto ready = quantd::ReadFile(argc == 2 ? argv[1] : "");
  if (!ready.ok()) {
    std::cerr << "usage: quantd_load READY_FILE\n" << ready.status().message() << "\n";
    return 2;
  }
  const std::string address = quantd::Value(*ready, "listen");
  std::cout << std::unitbuf;
  quantd::Submits(address);
  const quantd::v1::Lease lease = quantd::Leases(address);
  quantd::Watchers(address, quantd::Value(*ready, "pid"), lease);
  return 0;
}
