// What all services share, and the common path of their calls: let in or refused, posted to a pool,
// answered once, counted, and logged when the fault is ours or the audit wants it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "proto/errors.h"
#include "server/artifacts/artifact_store.h"
#include "server/auth/audit_log.h"
#include "server/auth/guard.h"
#include "server/auth/secret_keeper.h"
#include "server/garbage/keeper.h"
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
  Keeper* keeper = nullptr;
  Hub* hub = nullptr;
  ServerMetrics* metrics = nullptr;
  CatalogCache* catalog = nullptr;
  const Guard* guard = nullptr;
  TokenBook* tokens = nullptr;
  SecretKeeper* secrets = nullptr;
  AuditLog* audit = nullptr;
  WorkPool* reads = nullptr;  // Database reads and validation.
  WorkPool* disk = nullptr;   // Blobs.
  WorkPool* pages = nullptr;  // Of watches: many of them must not keep a single call waiting.
  std::string secret;         // Seals page tokens.
  StreamTimes times;
  // Does not jump: see queue.h.
  std::function<absl::Time()> now;
};

// The error of calls that would start something while the server stops.
absl::Status DrainingError();
absl::Status OverloadedError();

// A call from its start to its end: who asks for what since when, and whether it was let in.
struct CallRecord {
  const char* service;  // Literals.
  const char* method;
  absl::Duration start;
  Admission admission;
  absl::Status admitted;
  std::string peer;
};

// Asks the guard. Every handler begins with this; `request` is null where it comes in a stream.
CallRecord BeginCall(const ServiceContext& context, const grpc::CallbackServerContext& rpc,
                     const char* service, const char* method,
                     const google::protobuf::Message* request);
// Counts a call that ended, and logs it when the fault is ours.
void EndCall(const ServiceContext& context, const CallRecord& record, const absl::Status& status);

// One unary call; copies share it. Finish exactly once, from any thread.
class Call {
 public:
  // Both names are literals. A call that is not let in is answered here: refused() then holds.
  Call(const ServiceContext* context, grpc::CallbackServerContext* rpc, const char* service,
       const char* method, const google::protobuf::Message& request);

  bool refused() const { return !record_->admitted.ok(); }
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }
  const ServiceContext& context() const { return *context_; }
  const Identity& identity() const { return record_->admission.identity; }
  // Nobody waits for the answer any more.
  bool Abandoned() const { return rpc_->IsCancelled(); }

  void Finish(const absl::Status& status) const;
  template <typename Response>
  void Answer(absl::StatusOr<Response> result, Response* out) const {
    if (result.ok()) *out = *std::move(result);
    Finish(result.status());
  }
  // Runs `work` on the pool unless the caller has gone or was refused.
  void Post(WorkPool* pool, std::function<void()> work) const;

 private:
  const ServiceContext* context_;
  grpc::CallbackServerContext* rpc_;
  grpc::ServerUnaryReactor* reactor_;
  std::shared_ptr<const CallRecord> record_;
};

// A stream's reactor that only says no; it owns itself.
template <typename Reactor>
class RefusedStream final : public Reactor {
 public:
  explicit RefusedStream(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

// For metrics: "quantize", "evaluate", ...
std::string KindLabel(const v1::JobSpec& spec);
absl::Duration Between(const google::protobuf::Timestamp& from,
                       const google::protobuf::Timestamp& to);

}  // namespace quantd
