// Watching until the end: events of a job or sweep into a View, over lost connections and restarts
// of the scheduler, each event once. Ends early at --timeout, at Ctrl-C (the job goes on), or at
// two of them (the job is cancelled).
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/render/view.h"
#include "client/session.h"

namespace quantd {

struct FollowRequest {
  // Full name of a job or a sweep.
  std::string name;
  bool sweep = false;
  // Jobs only: start behind this event.
  int64_t after_sequence = 0;
  // Event kinds of WatchJobRequest; empty: all.
  std::vector<std::string> kinds;
  // Jobs only: end after the events that exist now.
  bool snapshot = false;
};

enum class FollowEnd {
  kEnded,      // The job or sweep is over, or the snapshot complete.
  kDetached,   // Ctrl-C once.
  kCancelled,  // Ctrl-C twice: cancelling has been asked for.
  kTimedOut,
};

// Errors: the scheduler refuses, or cannot be reached again for five minutes.
absl::StatusOr<FollowEnd> Follow(Session* session, const FollowRequest& request, View* view);

}  // namespace quantd
