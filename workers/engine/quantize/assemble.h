// The output folder: standard shards with an index, configuration, tokenizer files and records, out
// of the per-block checkpoint and the original model.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"
#include "workers/engine/quantize/plan.h"
#include "workers/engine/quantize/work_folder.h"

namespace quantd::engine {

constexpr char kMetadataFile[] = "quantization_metadata.json";

// A file of the output folder and its role in the manifest.
struct OutputFile {
  std::string path;
  std::string role;
};

// Weights, index, config.json, quantize_config.json and the model's companion files.
absl::StatusOr<std::vector<OutputFile>> WriteModel(JobContext& context, const QuantizePlan& plan,
                                                   const WorkFolder& work, int64_t shard_bytes);

// quantization_metadata.json and README.md.
absl::StatusOr<std::vector<OutputFile>> WriteRecords(const std::string& folder,
                                                     const nlohmann::json& metadata);

}  // namespace quantd::engine
