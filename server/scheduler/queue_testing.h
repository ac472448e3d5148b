// What the tests of the queue share: a store in a folder of its own, a worker that can do
// everything, short requests.
#pragma once

#include <stdlib.h>

#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "server/scheduler/queue.h"
#include "server/store/sqlite_job_store.h"

namespace quantd {

class TestFolder {
 public:
  TestFolder() {
    char pattern[] = "/tmp/quantd-queue-XXXXXX";
    QD_CHECK(mkdtemp(pattern) != nullptr);
    path_ = pattern;
  }
  ~TestFolder() { RemoveTree(path_).IgnoreError(); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// splitmix64: the same numbers on every machine.
class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : state_(seed) {}
  uint64_t operator()() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // 0 ... count - 1.
  int64_t Below(int64_t count) { return static_cast<int64_t>((*this)() % count); }
  bool OneIn(int64_t count) { return Below(count) == 0; }

 private:
  uint64_t state_;
};

inline v1::Worker TestWorker(const std::string& id) {
  v1::Worker worker;
  worker.set_name("workers/" + id);
  for (const char* kind : {"quantize", "evaluate", "benchmark", "verify", "compare", "report"}) {
    worker.mutable_catalog()->add_kinds(kind);
  }
  for (const char* name : {"rtn", "gptq"}) {
    v1::MethodInfo& method = *worker.mutable_catalog()->add_methods();
    method.set_name(name);
    method.add_formats("gptq");
  }
  worker.mutable_catalog()->add_tasks()->set_name("perplexity");
  v1::Device& device = *worker.mutable_catalog()->add_devices();
  device.set_type("cpu");
  device.set_memory_bytes(int64_t{8} << 30);
  worker.set_host_memory_bytes(int64_t{8} << 30);
  return worker;
}

inline v1::SubmitJobRequest QuantizeRequest(const std::string& request_id = "") {
  v1::SubmitJobRequest request;
  request.mutable_spec()->mutable_quantize()->set_model("/models/tiny");
  request.mutable_spec()->mutable_quantize()->set_method("rtn");
  request.set_request_id(request_id);
  return request;
}

inline v1::JobEvent ProgressEvent(int64_t done) {
  v1::JobEvent event;
  event.mutable_progress()->set_phase("quantize");
  event.mutable_progress()->set_done(done);
  return event;
}

// A queue over an undurable store, and the calls of a test in short. With several schedulers: as
// many queues side by side over the one store.
struct TestQueue {
  explicit TestQueue(QueueOptions options = {}, int schedulers = 1)
      : options(std::move(options)), schedulers(schedulers) {
    if (!this->options.random) {
      this->options.random = [random = std::make_shared<TestRandom>(1)] { return (*random)(); };
    }
    Open();
  }
  void Open() {
    queue.reset();
    others.clear();
    store.reset();
    auto opened = OpenSqliteJobStore({.path = folder / "queue.db", .durable = false});
    QD_CHECK(opened.ok(), "", opened.status().ToString());
    store = *std::move(opened);
    for (int i = 0; i < schedulers; ++i) {
      auto made = Queue::Open(store.get(), options, now);
      QD_CHECK(made.ok(), "", made.status().ToString());
      if (i == 0) {
        queue = *std::move(made);
      } else {
        others.push_back(*std::move(made));
      }
    }
  }
  // Whichever of the schedulers the network leads to.
  Queue* Any() {
    const int64_t index = route.Below(schedulers);
    return index == 0 ? queue.get() : others[index - 1].get();
  }
  std::string Submit(const v1::SubmitJobRequest& request) {
    auto response = queue->SubmitJob(request, now);
    QD_CHECK(response.ok(), "", response.status().ToString());
    return response->job().name();
  }
  void Register(const v1::Worker& worker, const std::string& instance = "i1") {
    v1::RegisterWorkerRequest request;
    *request.mutable_worker() = worker;
    request.set_instance_id(instance);
    const auto response = queue->RegisterWorker(request, now);
    QD_CHECK(response.ok(), "", response.status().ToString());
  }
  absl::StatusOr<v1::LeaseJobResponse> Lease(const std::string& worker = "w",
                                             const std::string& request_id = "",
                                             const std::string& instance = "i1") {
    v1::LeaseJobRequest request;
    request.set_worker("workers/" + worker);
    request.set_instance_id(instance);
    request.set_request_id(request_id);
    return queue->LeaseJob(request, now);
  }
  v1::Lease MustLease(const std::string& worker = "w") {
    auto response = Lease(worker);
    QD_CHECK(response.ok() && response->has_lease(), "", response.status().ToString());
    return response->lease();
  }
  absl::StatusOr<v1::ReportJobResponse> Report(const v1::Lease& lease, int64_t first = 1,
                                               const std::vector<v1::JobEvent>& events = {}) {
    v1::ReportJobRequest request;
    *request.mutable_lease() = lease;
    request.set_first_event(first);
    for (const v1::JobEvent& event : events) *request.add_events() = event;
    return queue->ReportJob(request, now);
  }
  absl::StatusOr<v1::CompleteJobResponse> Succeed(const v1::Lease& lease) {
    v1::CompleteJobRequest request;
    *request.mutable_lease() = lease;
    request.mutable_success()->mutable_output()->set_sha256("output of " + lease.job());
    return queue->CompleteJob(request, now);
  }
  absl::StatusOr<v1::CompleteJobResponse> Fail(const v1::Lease& lease, v1::ErrorClass error_class,
                                               const std::string& message = "it broke") {
    v1::CompleteJobRequest request;
    *request.mutable_lease() = lease;
    request.mutable_failure()->set_error_class(error_class);
    request.mutable_failure()->set_message(message);
    return queue->CompleteJob(request, now);
  }
  v1::Job Get(const std::string& name) {
    v1::GetJobRequest request;
    request.set_name(name);
    auto job = queue->GetJob(request, now);
    QD_CHECK(job.ok(), "", job.status().ToString());
    return *std::move(job);
  }
  v1::JobState State(const std::string& name) { return Get(name).state(); }
  std::vector<v1::JobEvent> Events(const std::string& name) {
    v1::WatchJobRequest request;
    request.set_name(name);
    auto page = queue->ReadEvents(request, 100'000);
    QD_CHECK(page.ok(), "", page.status().ToString());
    return std::move(page->events);
  }
  void Advance(absl::Duration by) {
    now += by;
    const absl::Status status = queue->Tick(now);
    QD_CHECK(status.ok(), "", status.ToString());
  }

  QueueOptions options;
  const int schedulers;
  TestRandom route{99};
  TestFolder folder;
  absl::Time now = absl::FromUnixSeconds(1'750'000'000);
  std::unique_ptr<JobStore> store;
  std::unique_ptr<Queue> queue;
  std::vector<std::unique_ptr<Queue>> others;
};

}  // namespace quantd
