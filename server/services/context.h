// What all services share, and the common path of their unary calls: posted to a pool, answered
// once, counted, and logged when the fault is ours.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "server/artifacts/artifact_store.h"
#include "server/metrics/server_metrics.h"
#include "server/scheduler/queue.h"
#include "server/services/catalog_cache.h"
#include "server/services/hub.h"
#include "server/services/work_pool.h"

namespace quantd {

// Times of the streams; tests shorten them.
struct StreamTimes {
  absl::Duration keep_alive = absl::Seconds(15);
  // A subscriber that takes nothing for so long is told so and let go ...
  absl::Duration stalled = absl::Seconds(60);
  // ... and its connection's stream is reset when it does not even take that.
  absl::Duration reset = absl::Seconds(120);
  absl::Duration long_poll_max = absl::Seconds(20);
};

// Nothing is owned; everything outlives the services and is thread-safe.
struct ServiceContext {
  Queue* queue = nullptr;
  ArtifactStore* artifacts = nullptr;
  Hub* hub = nullptr;
  ServerMetrics* metrics = nullptr;
  CatalogCache* catalog = nullptr;
  WorkPool* reads = nullptr;  // Database reads and validation.
  WorkPool* disk = nullptr;   // Blobs.
  std::string secret;         // Seals page tokens.
  StreamTimes times;
  // Does not jump: see queue.h.
  std::function<absl::Time()> now;
};

// The error of calls that would start something while the server stops.
absl::Status DrainingError();
absl::Status OverloadedError();

// One unary call; copies share it. Finish exactly once, from any thread.
class Call {
 public:
  // Both names are literals.
  Call(const ServiceContext* context, grpc::CallbackServerContext* rpc, const char* service,
       const char* method);

  grpc::ServerUnaryReactor* reactor() const { return reactor_; }
  const ServiceContext& context() const { return *context_; }
  // Nobody waits for the answer any more.
  bool Abandoned() const { return rpc_->IsCancelled(); }

  void Finish(const absl::Status& status) const;
  template <typename Response>
  void Answer(absl::StatusOr<Response> result, Response* out) const {
    if (result.ok()) *out = *std::move(result);
    Finish(result.status());
  }
  // Runs `work` on the pool unless the caller has gone.
  void Post(WorkPool* pool, std::function<void()> work) const;

 private:
  const ServiceContext* context_;
  grpc::CallbackServerContext* rpc_;
  grpc::ServerUnaryReactor* reactor_;
  const char* service_;
  const char* method_;
  absl::Duration start_;
};

// For metrics: "quantize", "evaluate", ...
std::string KindLabel(const v1::JobSpec& spec);
absl::Duration Between(const google::protobuf::Timestamp& from,
                       const google::protobuf::Timestamp& to);

// Counts a call that ended, and logs it when the fault is ours.
void RecordCall(const ServiceContext& context, const char* service, const char* method,
                const absl::Status& status, absl::Duration start);

}  // namespace quantd
