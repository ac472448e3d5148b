// The rotary part of config.json: partial rotation, scalings, and bases by layer type.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/config.h"
#include "workers/engine/checkpoint/config_dialects.h"

namespace quantd::engine {

// Fills rope, local_rope and rotary_dim; the sizes and max_position_embeddings must be there.
// Unimplemented names an unknown scaling and the known ones.
absl::Status ParseRope(const nlohmann::json& object, absl::string_view origin,
                       const ConfigDialect& dialect, ModelConfig* config);

}  // namespace quantd::engine
