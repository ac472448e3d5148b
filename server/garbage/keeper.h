// What services ask before they believe that something lies in the artifact store, or tell a client
// that it does: the collector then leaves it there for a grace time, in which the client may refer
// to it. See collector.h for why that is enough.
#pragma once

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/artifacts/artifact_store.h"
#include "server/scheduler/references.h"
#include "server/store/job_store.h"

namespace quantd {

// Grows whenever something was removed from the artifact store: what other schedulers remember of
// the storage is not to be believed any more.
inline constexpr char kRemovalsSetting[] = "garbage removals";

// Thread-safe. Neither store is owned.
class Keeper {
 public:
  Keeper(JobStore* store, ArtifactStore* artifacts) : store_(store), artifacts_(artifacts) {}

  // To be called before the artifact store is asked for these. Unavailable + RetryInfo: one of them
  // is being removed.
  absl::Status Keep(const std::vector<std::string>& keys);

 private:
  JobStore* const store_;
  ArtifactStore* const artifacts_;
  absl::Mutex mutex_;
  std::string removals_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace quantd
