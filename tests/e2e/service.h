// A scheduler and workers as real processes, and the API to talk to them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "tests/e2e/processes.h"

namespace quantd::e2e {

class Service {
 public:
  struct Options {
    int workers = 1;
    int lease_seconds = 30;
    // A library that is loaded into one process ("scheduler", "worker-0") and what it starts, with
    // the process's folder in QUANTD_FAULT_FOLDER.
    std::string preload = {};
    std::string preloaded = {};
    bool confined = true;  // Else an engine may leave word beside its worker's folder.
  };
  explicit Service(const Options& options);

  const std::string& address() const { return address_; }
  // Of the preloaded process, from its next start on.
  void SetEnvironment(std::map<std::string, std::string> environment) {
    environment_ = std::move(environment);
  }
  // Starts what is not running, and waits until the scheduler answers.
  void StartScheduler();
  void StartWorker(int index);
  Process& scheduler() { return *scheduler_; }
  Process& worker(int index) { return *workers_[static_cast<size_t>(index)]; }
  // Engines at work below that worker.
  std::vector<pid_t> Engines(int index);

  // Sends the same request until the scheduler acknowledges it: the name of the job.
  std::string Submit(const v1::JobSpec& spec, const std::string& request_id);
  std::optional<v1::Job> Get(const std::string& job);
  // Waits until the job has ended; fails the test after `limit`.
  v1::Job Await(const std::string& job, absl::Duration limit);
  std::vector<v1::JobEvent> Events(const std::string& job);
  // A figure of the scheduler's /metrics, the sum where it has labels; of the series with `label`
  // alone, if given. -1: there is none.
  int64_t Metric(const std::string& name, const std::string& label = "");
  // The logs of all processes, for a failed test's message.
  std::string Logs() const;

  std::string operator/(const std::string& name) const { return folder_ / name; }

 private:
  std::map<std::string, std::string> Environment(const std::string& process) const;

  TemporaryFolder folder_;
  Options options_;
  std::string address_;
  std::map<std::string, std::string> environment_;
  std::unique_ptr<Process> scheduler_;
  std::vector<std::unique_ptr<Process>> workers_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
};

// A quantize job on the bundled model. `options` is the JSON of the method's options.
v1::JobSpec QuantizeTiny(const std::string& method, const std::string& options);

// The event log of a job that succeeded: numbers without a gap, one end, and no attempt's events
// after a newer one's.
void ExpectOneEnd(const std::vector<v1::JobEvent>& events, const std::string& job);

// SHA-256 of the output's weights, by path: what must not depend on what happened on the way.
std::map<std::string, std::string> WeightDigests(const v1::Job& job);

}  // namespace quantd::e2e
