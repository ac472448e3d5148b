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

}  // namespace quantd
