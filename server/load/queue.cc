// Blocking stubs, a thread a client: at 64 of them the scheduler's group commits are full.
#include <atomic>
#include <ostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "server/load/measure.h"

namespace quantd::load {
namespace {

constexpr int kClients = 64;
constexpr int kLists = 200;
constexpr int kLeases = 1'000;

double Since(absl::Time start) { return absl::ToDoubleMilliseconds(absl::Now() - start); }

void MeasureLists(const Target& target) {
  const auto stub = v1::JobService::NewStub(Connect(target));
  std::vector<double> took;
  for (int i = 0; i < kLists; ++i) {
    v1::ListJobsRequest request;
    v1::ListJobsResponse response;
    grpc::ClientContext context;
    const absl::Time sent = absl::Now();
    const grpc::Status status = stub->ListJobs(&context, request, &response);
    if (!status.ok()) target.out << "list: " << status.error_message() << "\n";
    took.push_back(Since(sent));
  }
  Quantiles(target, std::move(took), "first page of all jobs");
}

grpc::Status Register(v1::WorkerService::Stub* stub, const std::string& instance) {
  v1::RegisterWorkerRequest request;
  request.mutable_worker()->set_name("workers/load");
  request.set_instance_id(instance);
  request.mutable_worker()->mutable_catalog()->add_kinds("quantize");
  v1::MethodInfo& method = *request.mutable_worker()->mutable_catalog()->add_methods();
  method.set_name("rtn");
  method.add_formats("gptq");
  request.mutable_worker()->mutable_catalog()->add_devices()->set_type("cpu");
  grpc::ClientContext context;
  v1::RegisterWorkerResponse response;
  return stub->RegisterWorker(&context, request, &response);
}

}  // namespace

void MeasureSubmits(const Target& target, int jobs) {
  std::atomic<int> next{0};
  std::atomic<int> failed{0};
  std::vector<std::vector<double>> took(kClients);
  std::vector<std::thread> threads;
  const absl::Time start = absl::Now();
  for (int client = 0; client < kClients; ++client) {
    threads.emplace_back([&, client] {
      const auto stub = v1::JobService::NewStub(Connect(target));
      for (int number = next++; number < jobs; number = next++) {
        v1::SubmitJobRequest request;
        request.mutable_spec()->mutable_quantize()->set_model("/models/none");
        request.mutable_spec()->mutable_quantize()->set_method("rtn");
        request.set_request_id(absl::StrCat("load-", absl::ToUnixNanos(start), "-", number));
        grpc::ClientContext context;
        v1::SubmitJobResponse response;
        const absl::Time sent = absl::Now();
        if (!stub->SubmitJob(&context, request, &response).ok()) ++failed;
        took[static_cast<size_t>(client)].push_back(Since(sent));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  target.out << "submits: " << jobs << " over " << kClients << " clients in " << seconds
             << " s = " << jobs / seconds << " /s, failed " << failed << "\n";
  std::vector<double> all;
  for (const auto& each : took) all.insert(all.end(), each.begin(), each.end());
  Quantiles(target, std::move(all), "submit latency");
  MeasureLists(target);
  target.out << "scheduler: " << Words(UsageOf(target)) << "\n";
}

v1::Lease MeasureLeases(const Target& target) {
  const auto stub = v1::WorkerService::NewStub(Connect(target));
  const std::string instance = absl::StrCat(absl::ToUnixNanos(absl::Now()));
  if (const grpc::Status status = Register(stub.get(), instance); !status.ok()) {
    target.out << "register: " << status.error_message() << "\n";
  }
  std::vector<double> took;
  v1::Lease lease;
  for (int i = 0; i < kLeases; ++i) {
    v1::LeaseJobRequest poll;
    poll.set_worker("workers/load");
    poll.set_instance_id(instance);
    poll.set_request_id(absl::StrCat("poll-", i));
    v1::LeaseJobResponse leased;
    grpc::ClientContext poll_context;
    const absl::Time sent = absl::Now();
    const grpc::Status answer = stub->LeaseJob(&poll_context, poll, &leased);
    took.push_back(Since(sent));
    if (!answer.ok() || !leased.has_lease()) {
      target.out << "lease " << i << ": " << answer.error_message() << "\n";
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
  Quantiles(target, std::move(took), "lease latency with a full queue");
  return lease;
}

}  // namespace quantd::load
