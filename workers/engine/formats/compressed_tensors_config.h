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

// Whether weights lie there as plain bytes ("int-quantized") and not packed.
bool StoredAsBytes(int bits, InputKind input);

// Of the first group in "config_groups" with a target that is the module's name, else a pattern
// that matches it, else a class ("Linear"). InvalidArgument names the field and the value that
// cannot be read, or says that no group has the module.
absl::StatusOr<CompressedModule> ReadCompressedTensorsConfiguration(
    const nlohmann::json& configuration, absl::string_view module);

// Order of the Hadamard blocks that turn the module's input while the model runs, by
// "transform_config"; 0: none. `inputs` is the module's width. Unimplemented for another transform
// of an input or output.
absl::StatusOr<int64_t> ReadInputRotation(const nlohmann::json& configuration,
                                          absl::string_view module, int64_t inputs);

}  // namespace quantd::engine
