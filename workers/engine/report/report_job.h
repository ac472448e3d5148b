// The compare and report jobs: the same rows; a report also leaves files.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "workers/engine/job/context.h"

namespace quantd::engine {

// CompareFacts' JSON.
absl::StatusOr<nlohmann::json> RunCompare(JobContext& context, const CompareSpec& spec);
// The same, with "title"; writes report.json, report.md, report.html and summary.csv.
absl::StatusOr<nlohmann::json> RunReport(JobContext& context, const ReportSpec& spec);

}  // namespace quantd::engine
