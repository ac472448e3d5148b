// Registration of calls under a mutex, so that a cancel can never miss one that is just starting.
#include "workers/agent/cancel_scope.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace quantd {

void CancelScope::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : calls_) context->TryCancel();
}

bool CancelScope::SleepFor(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(
                              +[](std::atomic<bool>* flag) { return flag->load(); }, &cancelled_),
                          duration);
  return !cancelled_;
}

CancelScope::Call::Call(CancelScope& scope, absl::Duration deadline) : scope_(scope) {
  if (deadline < absl::InfiniteDuration()) {
    context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(deadline));
  }
  absl::MutexLock lock(&scope_.mutex_);
  scope_.calls_.insert(&context);
  if (scope_.cancelled_) context.TryCancel();
}

CancelScope::Call::~Call() {
  absl::MutexLock lock(&scope_.mutex_);
  scope_.calls_.erase(&context);
}

absl::Duration Backoff::Next() {
  const double factor = std::uniform_real_distribution<double>(0.5, 1.5)(random_);
  const absl::Duration plain = std::min(max_, first_ * std::pow(2.0, std::min(tries_, 30)));
  ++tries_;
  return plain * factor;
}

}  // namespace quantd
