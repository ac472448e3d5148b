// The worker: registers, waits for a lease, works on it, checks the device when an engine has died,
// and again. It dials the scheduler and never listens, save for metrics.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "workers/agent/attempt.h"
#include "workers/agent/blob_cache.h"
#include "workers/agent/cancel_scope.h"
#include "workers/agent/metrics.h"
#include "workers/agent/transfer.h"

namespace quantd {

struct AgentOptions {
  std::string name;    // Without "workers/"; of slot k > 1 it is name-k.
  std::string engine;  // Path of quant-engine.
  std::string data;    // A folder of this process alone.
  std::map<std::string, std::string> labels;
  // Values of this process's environment that no log line or event may hold.
  std::vector<std::string> secret_values;
  int slots = 1;  // Jobs at a time. Each slot is a worker of its own to the scheduler.
  int64_t cache_bytes = int64_t{200} << 30;
  // From the first request to stop until the process has given its jobs back.
  absl::Duration drain_grace = absl::Seconds(25);
  // Stop when there was nothing to do for so long. Infinite: never.
  absl::Duration exit_when_idle = absl::InfiniteDuration();
  bool canary = true;
  // Between two checks of a device that was not sane when an earlier process left.
  absl::Duration canary_retry = absl::Seconds(30);
  EngineGrace grace;
  EngineLimits limits;
  absl::Duration poll = absl::Seconds(20);
};

class Agent {
 public:
  // Asks the engine what it can; an engine that does not answer is an error. `metrics` is not
  // owned.
  static absl::StatusOr<std::unique_ptr<Agent>> Create(
      AgentOptions options, std::shared_ptr<grpc::ChannelInterface> channel, AgentMetrics* metrics);
  ~Agent();

  // Until Drain(), idleness, a device that is not sane, or another process that took the name. OK:
  // in good order.
  absl::Status Run();

  // From any thread. First call: finish the block at hand, store the checkpoint, give the job back.
  // Second call: without the finishing.
  void Drain();
  // Asks the engine again what it can, and tells the scheduler.
  absl::Status Refresh();

 private:
  struct Slot {
    std::string name;      // "workers/…".
    std::string instance;  // New with each start.
  };
  Agent(AgentOptions options, std::shared_ptr<grpc::ChannelInterface> channel,
        AgentMetrics* metrics);
  absl::Status LoadCatalog();
  absl::Status RunSlot(const Slot& slot);
  absl::Status Register(const Slot& slot);
  // The next lease; an empty response when there was none.
  absl::StatusOr<v1::LeaseJobResponse> Poll(const Slot& slot, const std::string& request_id);
  absl::Status Work(v1::LeaseJobResponse lease);
  absl::Status CheckDevice();
  // Whatever started this process again cannot know why the last one left: a device that was not
  // sane then is checked until it is, before any job is asked for.
  absl::Status WaitUntilSane();
  void Deregister(const Slot& slot);
  void WatchDrain();

  const AgentOptions options_;
  AgentMetrics* const metrics_;
  const std::unique_ptr<v1::WorkerService::Stub> workers_;
  const std::unique_ptr<v1::ArtifactService::Stub> artifacts_;
  BlobTransfer transfer_;
  std::unique_ptr<BlobCache> cache_;
  std::unique_ptr<InputDigest> inputs_;
  CancelScope polls_;  // Cancelled when no more leases are wanted.
  CancelScope ended_;  // Cancelled when Run() returns: ends the drain's clock.
  std::atomic<int> catalog_version_{0};

  absl::Mutex mutex_;
  v1::Catalog catalog_ ABSL_GUARDED_BY(mutex_);
  std::set<Attempt*> attempts_ ABSL_GUARDED_BY(mutex_);
  int drains_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread drain_clock_ ABSL_GUARDED_BY(mutex_);
};

// A random UUID (version 4).
std::string NewUuid();

}  // namespace quantd
