// What the parts of quantd_load share: connections of one's own, the scheduler's process as the
// kernel sees it, and figures.
#pragma once

#include <grpcpp/grpcpp.h>

#include <iosfwd>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"

namespace quantd::load {

// The scheduler that is measured, and where figures go.
struct Target {
  std::string address;
  std::string pid;
  std::ostream& out;
};

// Of the scheduler's process.
struct Usage {
  int64_t resident_bytes = 0;
  int64_t threads = 0;
  int64_t files = 0;
};
Usage UsageOf(const Target& target);
std::string Words(const Usage& usage);

// Every client has a connection of its own.
std::shared_ptr<grpc::Channel> Connect(const Target& target);

// Prints "WHAT: p50 ... ms, p99 ... ms, max ... ms".
void Quantiles(const Target& target, std::vector<double> milliseconds, const std::string& what);

// Durable submits over 64 clients, then the first page of a list.
void MeasureSubmits(const Target& target, int jobs);
// Leases and completes jobs while thousands are queued. The last lease is kept and returned.
v1::Lease MeasureLeases(const Target& target);
// Watchers of one job, half of them slow, while it logs.
void MeasureWatchers(const Target& target, const v1::Lease& lease, int watchers);
// Connections that ask nothing and answer pings, as a client's between two calls.
class IdleConnections {
 public:
  IdleConnections(const Target& target, int connections);
  ~IdleConnections();
  IdleConnections(const IdleConnections&) = delete;
  IdleConnections& operator=(const IdleConnections&) = delete;
  // Opens more of them until they are refused, then closes all.
  void MeasureRefusals();

 private:
  bool Add();
  // Reads what came and answers pings, until `stop_`.
  void Answer();
  const Target target_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<int> open_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};
// One blob up and down with its digest, `streams` of them at a time.
void MeasureTransfers(const Target& target, int64_t mebibytes, int streams);

}  // namespace quantd::load
