// Long evaluations in parts that survive a kill: each part's results are a small file in the work
// folder, and a later attempt computes only the missing ones. Because a part is always computed
// whole, in the same batches, the resumed result equals the one without the kill.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"

namespace quantd::engine {

struct PartsPlan {
  std::string name;         // Folder in the work folder: "arc", "perplexity".
  std::string fingerprint;  // Of everything that decides the results; other parts are not used.
  int64_t items = 0;
  int64_t items_per_part = 1;
};

// Calls `compute(first, last)` for every part that is not there yet; it returns one JSON value per
// item. Returns the values of all items in order. `on_part(items_done, values_so_far)` is called
// after each part, also for the ones that were there.
absl::StatusOr<std::vector<nlohmann::json>> RunParts(
    JobContext& context, const PartsPlan& plan,
    const std::function<absl::StatusOr<std::vector<nlohmann::json>>(int64_t first, int64_t last)>&
        compute,
    const std::function<void(int64_t done, const std::vector<nlohmann::json>& values)>& on_part);

}  // namespace quantd::engine
