// One file of the Hub into the cache: resumed where an earlier attempt stopped, verified, then
// given its final name.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "workers/engine/hub/cache.h"
#include "workers/engine/hub/client.h"

namespace quantd {

// Returns when the blob is whole in the cache, whoever downloaded it. `progress` gets the bytes of
// the file that are there.
absl::Status Download(const HubClient& client, const HubCache& cache, const HubFile& file,
                      const std::function<void(int64_t)>& progress,
                      const std::function<bool()>& cancelled);

}  // namespace quantd
