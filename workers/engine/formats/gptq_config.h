// The configuration of the GPTQ format: writing it, and reading what it says about one module.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/formats/format.h"

namespace quantd::engine {

nlohmann::json GptqConfiguration(const ConfigRequest& request);

// Whether it says version 2, in either of the fields that tools write.
bool IsGptqV2(const nlohmann::json& configuration);

struct GptqModule {
  int bits = 4;             // 2, 3, 4 or 8.
  int64_t group_size = -1;  // Positive, or -1.
  bool symmetric = true;
  // Zero points are stored minus one ("gptq", version 1); false: as they are ("gptq_v2").
  bool zeros_minus_one = true;
};

// "bits", "group_size", "sym", "checkpoint_format", and what "dynamic" says about `module`: its
// first pattern that matches at the start of the name counts. InvalidArgument names the field and
// the value.
absl::StatusOr<GptqModule> ReadGptqConfiguration(const nlohmann::json& configuration,
                                                 absl::string_view module);

}  // namespace quantd::engine
