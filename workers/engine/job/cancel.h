// A request to stop, set from a signal handler or another thread and looked at between blocks,
// batches and windows.
#pragma once

#include <atomic>

#include "absl/status/status.h"

namespace quantd::engine {

// Thread-safe and safe in signal handlers.
class CancelToken {
 public:
  void Cancel() const { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // Cancelled when a stop was asked for.
  absl::Status Check() const;

  // SIGTERM and SIGINT cancel `token`, which must live as long as the process. A second SIGINT
  // ends the process at once.
  static void CancelOnSignals(const CancelToken& token);

 private:
  mutable std::atomic<bool> cancelled_{false};
  static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");
};

}  // namespace quantd::engine
