// The comparison of variants as a table, from the result of a compare or report job
// (docs/results.md).
#pragma once

#include <string>
#include <vector>

#include "client/render/table.h"
#include "google/protobuf/struct.pb.h"

namespace quantd {

// Lines: the table, failed variants with their error below it, the recommendation. Empty when
// `result` holds no rows. `width` 0: no limit; else the less important columns go first and are
// named in a last line.
std::vector<std::string> ComparisonLines(const google::protobuf::Struct& result, size_t width,
                                         const Style& style);

// The summary of the one variant that a comparison holds against its baseline: seconds, sizes,
// every metric with its change, verdict and outcome. Empty when there is no such row.
std::vector<std::string> VariantLines(const google::protobuf::Struct& result, const Style& style);

}  // namespace quantd
