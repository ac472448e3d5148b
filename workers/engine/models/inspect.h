// What a folder holds, for `quant-engine inspect`: people look here before they start a long job.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace quantd::engine {

// {"folder", "architecture", "supported", "reason" (why not), "parameters", "bytes", "dtypes":
// {name: bytes}, "tensors",
//  "files", "config": {the typed fields}, "quantization": config.json's or null, "tokenizer":
//  "tokenizer.json" | "sentencepiece" | "none"}. An unsupported architecture is an answer, a
//  damaged or missing checkpoint an error.
absl::StatusOr<nlohmann::json> InspectModel(const std::string& folder);

}  // namespace quantd::engine
