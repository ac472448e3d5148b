// The one place where the engine meets signals.
#include "workers/engine/job/cancel.h"

#include <csignal>

namespace quantd::engine {
namespace {

std::atomic<const CancelToken*> g_token{nullptr};

void OnSignal(int) {
  if (const CancelToken* token = g_token.load()) token->Cancel();
}

}  // namespace

absl::Status CancelToken::Check() const {
  return cancelled() ? absl::CancelledError("stopped because it was asked to") : absl::OkStatus();
}

void CancelToken::CancelOnSignals(const CancelToken& token) {
  g_token.store(&token);
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
}

}  // namespace quantd::engine
