// One leased attempt of one job, from the lease to its outcome: inputs, engine, outputs, and the
// one answer that the scheduler gets about it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"
#include "workers/agent/blob_cache.h"
#include "workers/agent/confinement.h"
#include "workers/agent/engine_supervisor.h"
#include "workers/agent/input_digest.h"
#include "workers/agent/job_folder.h"
#include "workers/agent/lease_keeper.h"
#include "workers/agent/metrics.h"
#include "workers/agent/output_collector.h"
#include "workers/agent/stop_switch.h"
#include "workers/agent/transfer.h"

namespace quantd {

// What all attempts of a worker share. Not owned.
struct AttemptWorld {
  v1::WorkerService::StubInterface* workers = nullptr;
  BlobTransfer* transfer = nullptr;
  BlobCache* cache = nullptr;
  AgentMetrics* metrics = nullptr;
  InputDigest* inputs = nullptr;
  std::string engine;                      // Path of quant-engine.
  std::string data;                        // The worker's folder.
  std::vector<std::string> secret_values;  // Taken out of all that an engine says.
  EngineGrace grace;
  EngineLimits limits;
};

struct AttemptResult {
  // "succeeded", "failed", "cancelled", "released", "lease_lost".
  std::string outcome;
  // The engine died or was killed: look at the device before the next lease.
  bool device_suspect = false;
};

class Attempt {
 public:
  Attempt(const AttemptWorld& world, v1::LeaseJobResponse lease);

  // On the thread that called it, to the end. Once.
  AttemptResult Run();

  // From any thread, while Run() runs: stop in good order and give the job back; then without any
  // more patience.
  void Drain() { stop_.Request(StopReason::kDraining); }
  void Hurry() { stop_.Hurry(); }
  // Ends even the try to say that the job is given back.
  void Abandon();

 private:
  enum class Kind { kSuccess, kFailure, kCancelled, kReleased, kLost };
  struct Outcome {
    Kind kind = Kind::kFailure;
    v1::Failure failure;
    v1::CompleteJobRequest::Success success;
  };

  Outcome Work();
  // What an earlier job made of the same inputs; nothing when none did.
  std::optional<Outcome> Reuse();
  absl::Status Prepare();
  absl::StatusOr<EngineEnd> Engine();
  std::vector<std::string> SecretValues() const;
  // What this job's engine may reach; nullptr without confinement.
  absl::StatusOr<std::shared_ptr<const Confinement>> Confine();
  Outcome Judge(const EngineEnd& end);
  Outcome Stopped() const;
  Outcome Failed(v1::ErrorClass error_class, const absl::Status& status) const;
  v1::ErrorClass ClassOfInputError(const absl::Status& status) const;
  absl::Status CollectOutput(Outcome* outcome);
  std::string Deliver(Outcome outcome);
  std::string Complete(Outcome outcome);
  void Tick();
  TransferControl InputControl();
  TransferControl OutputControl();
  std::string KindName() const;

  const AttemptWorld world_;
  const v1::LeaseJobResponse lease_;
  const absl::Duration started_;
  absl::Duration run_deadline_ = absl::InfiniteDuration();
  StopSwitch stop_;
  CancelScope last_words_;  // For the outcome: nothing but Abandon ends it.
  JobFolder folder_;
  ProgressMeter progress_;
  bool device_suspect_ = false;
  bool keep_checkpoint_ = false;
  std::string input_digest_;  // Empty: the result is nobody else's.
  // In this order: the collector uses the keeper, the keeper's hooks use the switch.
  absl::Mutex keeper_mutex_;  // Between Abandon() and the end of Run().
  std::unique_ptr<LeaseKeeper> keeper_;
  std::unique_ptr<OutputCollector> collector_;
};

}  // namespace quantd
