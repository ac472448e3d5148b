// A model named "org/name[@revision]" becomes a local folder, a file of a data set a local path:
// downloaded from the Hugging Face Hub into the cache that other tools share, resumed, verified; or
// found there. Of a model come configuration, tokenizer and safetensors only: a pickle can run code
// when it is loaded, so a repository that has nothing else is refused, and no Python file is ever
// fetched.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/hub_data.h"
#include "workers/engine/hub/cache.h"

namespace quantd {

struct HubProgress {
  std::string file;         // The last one that moved.
  int64_t done_bytes = 0;   // Of all files, what an earlier attempt left included.
  int64_t total_bytes = 0;  // Of all files that were not in the cache.
};

struct HubOptions {
  std::string endpoint;
  std::string cache_folder;
  std::string token;  // A secret: appears in no log and no error, goes to the endpoint's host only.
  bool offline = false;
  int parallel = 4;
  absl::Duration stall = absl::Seconds(60);   // Without a byte.
  Clock* clock = &Clock::Real();              // For Retry-After dates.
  std::function<void(absl::Duration)> sleep;  // Between attempts; empty: really sleeps.
  std::function<void(const HubProgress&)>
      progress;                     // Called by one thread at a time; may be empty.
  std::function<bool()> cancelled;  // Called by any thread; may be empty.

  // HF_ENDPOINT, HF_HUB_CACHE or HF_HOME, HF_TOKEN or the file that `hf auth login` writes,
  // HF_HUB_OFFLINE.
  static HubOptions FromEnvironment();
};

struct HubSnapshot {
  std::string folder;  // Holds the model's files, as links.
  std::string commit;
};

// NotFound says whether repository, revision or file is missing; PermissionDenied names the page
// where access is asked for; FailedPrecondition for a repository without safetensors;
// ResourceExhausted before a disk would be full; DataLoss for bytes that twice had the wrong hash;
// Unavailable when the Hub could not be reached and the cache does not have the model.
absl::StatusOr<HubSnapshot> FetchModel(const HubModel& model, const HubOptions& options);

// One file of a data set, as a path in the same cache. Errors as of FetchModel; NotFound when the
// data set has no such file.
absl::StatusOr<std::string> FetchData(const HubDataName& name, const HubOptions& options);

// The files of a repository that a model needs. FailedPrecondition when it has no safetensors
// weights; InvalidArgument for a file name that is no safe path.
absl::StatusOr<std::vector<std::string>> SelectFiles(const std::vector<std::string>& names,
                                                     const std::string& repository);

}  // namespace quantd
