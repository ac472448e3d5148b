// The per-block checkpoint of a quantize job: one safetensors file a finished unit and a state
// file, each durable before the next begins. Whoever has these files goes on where they end.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/formats/format.h"

namespace quantd::engine {

// What an interrupted job needs to know to go on to the same bytes.
struct WorkState {
  int64_t units_done = 0;
  int64_t batch_size = 0;  // Sequences a forward pass; sums depend on it. 0: not chosen yet.
  int attempts = 0;        // Starts so far, this one included.
  double seconds = 0;      // Spent on the units done, over all attempts,
  nlohmann::json phase_seconds = nlohmann::json::object();  // and on what: "collect": 1.5.
  nlohmann::json fallbacks = nlohmann::json::array();
  nlohmann::json notes = nlohmann::json::object();  // BlockJob::Note
};

class WorkFolder {
 public:
  // Takes over what `folder` holds when it was made with the same `fingerprint` and all of its
  // files are whole; starts anew (and says so in the log) otherwise. Files of units after a damaged
  // one are not used.
  static absl::StatusOr<WorkFolder> Open(const std::string& folder, const std::string& fingerprint,
                                         int64_t units);

  WorkState& state() { return state_; }
  const std::string& folder() const { return folder_; }

  // Writes the unit's tensors and records, then the state with units_done = unit + 1. Returns the
  // paths written, relative to the folder.
  absl::StatusOr<std::vector<std::string>> Save(int64_t unit,
                                                const std::vector<NamedTensor>& tensors,
                                                const nlohmann::json& records);
  // The state alone.
  absl::Status SaveState() const;
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenUnit(int64_t unit) const;
  // What Save was given.
  absl::StatusOr<nlohmann::json> Records(int64_t unit) const;

 private:
  std::string UnitFile(int64_t unit) const;  // "blocks/block_0007.safetensors"
  std::string folder_;
  std::string fingerprint_;
  WorkState state_;
};

}  // namespace quantd::engine
