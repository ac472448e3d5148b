// The configuration of compressed-tensors: writing it, and reading what it says about one module.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/formats/format.h"

namespace quantd::engine {

nlohmann::json CompressedTensorsConfiguration(const ConfigRequest& request);

struct CompressedModule {
  int bits = 4;               // 4 or 8.
  int64_t group_size = -1;    // Inputs that share a scale; -1: a whole row.
  bool whole_matrix = false;  // One scale for everything.
  bool symmetric = true;
  InputKind input = InputKind::kFloat;
};

// Of the first group in "config_groups" with a target that is the module's name, else a pattern
// that matches it, else a class ("Linear"). InvalidArgument names the field and the value that
// cannot be read, or says that no group has the module.
absl::StatusOr<CompressedModule> ReadCompressedTensorsConfiguration(
    const nlohmann::json& configuration, absl::string_view module);

}  // namespace quantd::engine
