// The output folder: the model's files and its records, out of the per-block checkpoint and the
// source of the original weights.
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

// The model's files, as its format writes them.
absl::StatusOr<WrittenModel> WriteModel(JobContext& context, const QuantizePlan& plan,
                                        const WorkFolder& work, int64_t shard_bytes);

// quantization_metadata.json and README.md.
absl::StatusOr<std::vector<OutputFile>> WriteRecords(const std::string& folder,
                                                     const nlohmann::json& metadata);

}  // namespace quantd::engine
