// The scheduler's Prometheus metrics, on an HTTP port of their own. Names start with "quantd_"
// (calls use the community's grpc_server_*); labels are bounded: no job, sweep, tenant or worker
// ever becomes one. Figures that the queue and the stores count themselves are read when Prometheus
// asks. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/artifacts/artifact_store.h"
#include "server/garbage/collector.h"
#include "server/scheduler/queue.h"
#include "server/store/job_store.h"

namespace quantd {

// What is read at every scrape.
struct MetricsSnapshot {
  QueueCounters counters;
  QueueStatistics statistics;
  JobStoreMetrics store;
  ArtifactUsage artifacts;
  GarbageCounters garbage;
  int64_t subscribers = 0;
  int64_t refused_connections = 0;
};

class ServerMetrics {
 public:
  ServerMetrics();
  ~ServerMetrics();
  ServerMetrics(const ServerMetrics&) = delete;
  ServerMetrics& operator=(const ServerMetrics&) = delete;

  // Names are literals of ours; `code` is a grpc::StatusCode.
  void CallHandled(const char* service, const char* method, int code, absl::Duration took);
  // `kind` is a field name of JobSpec.kind.
  void JobStarted(const std::string& kind, absl::Duration waited);
  void JobEnded(const std::string& kind, absl::Duration ran);
  void StreamDropped();

  // Serves /metrics on "host:port" (port 0: any) until the object goes; the snapshot is taken on
  // the HTTP server's threads. AlreadyExists when the port is taken. Returns the real address.
  absl::StatusOr<std::string> Serve(const std::string& address,
                                    std::function<MetricsSnapshot()> snapshot);
  // Ends the HTTP server: no snapshot is taken after this.
  void Stop();

 private:
  struct State;
  // Shared with the HTTP server, which holds on to it weakly.
  std::shared_ptr<State> state_;
};

}  // namespace quantd
