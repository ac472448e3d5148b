// What a worker tells Prometheus. Labels hold only values from closed sets: phases, kinds,
// outcomes, gRPC codes, and the tasks that the engine announced. Nothing here carries a job's name.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/worker.pb.h"
#include "workers/agent/gpu_state.h"

namespace quantd {

// Thread-safe.
class AgentMetrics {
 public:
  AgentMetrics();

  // Serves /metrics on "host:port"; the port may be 0. Returns the address that it got.
  absl::StatusOr<std::string> Listen(const std::string& address);
  // As /metrics shows it.
  std::string Render() const;

  // The engine's version, and the tasks that may appear as a label.
  void SetCatalog(const v1::Catalog& catalog);
  void SchedulerAnswered();
  void CallFailed(const std::string& method, absl::StatusCode code);
  void LeaseTaken();
  void LeaseLost() { leases_lost_->Increment(); }
  void ResultReused() { results_reused_->Increment(); }
  // `outcome`: "succeeded", "failed", "cancelled", "released", "lease_lost".
  void AttemptEnded(const std::string& kind, const std::string& outcome, absl::Duration time);
  void PhaseEnded(absl::string_view phase, absl::Duration time);
  void BlocksDone(int64_t count) { blocks_->Increment(static_cast<double>(count)); }
  void SamplesDone(absl::string_view phase, int64_t count);
  void Uploaded(int64_t bytes) { uploaded_bytes_->Increment(static_cast<double>(bytes)); }
  void Downloaded(int64_t bytes) { downloaded_bytes_->Increment(static_cast<double>(bytes)); }
  void EngineMemory(int64_t resident_bytes, int64_t peak_bytes);
  void EngineCrashed() { crashes_->Increment(); }
  void CheckpointStored();
  void CanaryFailed() { canary_failures_->Increment(); }
  void Disk(int64_t free_bytes, int64_t cache_bytes);
  void Gpus(const std::vector<GpuState>& states);

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  absl::Mutex mutex_;
  std::set<std::string> tasks_ ABSL_GUARDED_BY(mutex_);

  prometheus::Family<prometheus::Gauge>* build_info_;
  prometheus::Gauge* last_answer_;
  prometheus::Family<prometheus::Counter>* call_failures_;
  prometheus::Counter* leases_;
  prometheus::Counter* leases_lost_;
  prometheus::Counter* results_reused_;
  prometheus::Gauge* busy_;
  prometheus::Family<prometheus::Counter>* attempts_;
  prometheus::Family<prometheus::Histogram>* attempt_seconds_;
  prometheus::Family<prometheus::Histogram>* phase_seconds_;
  prometheus::Counter* blocks_;
  prometheus::Family<prometheus::Counter>* samples_;
  prometheus::Counter* uploaded_bytes_;
  prometheus::Counter* downloaded_bytes_;
  prometheus::Gauge* resident_;
  prometheus::Gauge* resident_peak_;
  prometheus::Counter* crashes_;
  prometheus::Gauge* checkpoint_time_;
  prometheus::Counter* canary_failures_;
  prometheus::Gauge* disk_free_;
  prometheus::Gauge* cache_bytes_;
  prometheus::Family<prometheus::Gauge>* gpu_memory_used_;
  prometheus::Family<prometheus::Gauge>* gpu_utilization_;
  prometheus::Family<prometheus::Gauge>* gpu_temperature_;
};

// One attempt's progress turned into counters: what was done since the last event, how long each
// phase took. Not thread-safe.
class ProgressMeter {
 public:
  explicit ProgressMeter(AgentMetrics* metrics) : metrics_(metrics) {}
  void Update(const v1::Progress& progress, absl::Duration now);
  void Finish(absl::Duration now);

 private:
  AgentMetrics* const metrics_;
  std::string phase_;
  int64_t done_ = 0;
  absl::Duration since_;
};

}  // namespace quantd
