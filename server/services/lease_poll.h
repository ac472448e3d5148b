// A worker's long poll: asks the queue, and while there is nothing waits for JobsRunnable, the
// poll's end or the server's, holding no thread.
#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/services/context.h"

namespace quantd {

class LeasePoll final : public grpc::ServerUnaryReactor,
                        public Listener,
                        public std::enable_shared_from_this<LeasePoll> {
 public:
  // The reactor of a new call; it owns itself until the call is done.
  static grpc::ServerUnaryReactor* Start(const ServiceContext* context,
                                         grpc::CallbackServerContext* rpc,
                                         const v1::LeaseJobRequest* request,
                                         v1::LeaseJobResponse* response);

  void Wake() override;
  void Tick(absl::Duration now) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  LeasePoll(const ServiceContext* context, CallRecord record, const v1::LeaseJobRequest* request,
            v1::LeaseJobResponse* response, absl::Duration wait);
  // Without the lock: a queue that refuses calls back before it returns.
  void Ask() ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether to ask now; notes the news otherwise.
  bool StartAsking() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Answered(absl::StatusOr<v1::LeaseJobResponse> result);
  // Adds the values of the secrets that the spec names; reads the store.
  void OpenSecrets(v1::LeaseJobResponse lease) ABSL_LOCKS_EXCLUDED(mutex_);
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ServiceContext* const context_;
  const v1::LeaseJobRequest request_;
  v1::LeaseJobResponse* const response_;
  const CallRecord record_;
  const absl::Duration end_;  // Monotonic.
  std::shared_ptr<LeasePoll> self_;

  absl::Mutex mutex_;
  bool asking_ ABSL_GUARDED_BY(mutex_) = false;
  bool news_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace quantd
