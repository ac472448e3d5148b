// One column of one row group: its levels and its values, out of its pages.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/parquet/metadata.h"

namespace quantd::engine {

struct ColumnValues {
  // One entry for every value or missing value. Empty where the levels are all 0.
  std::vector<uint32_t> repetition, definition;
  // Only those that are there. Null for types without a JSON form and for bytes that are no UTF-8.
  std::vector<nlohmann::json> values;
  int64_t entries = 0;
};

// `file` is the whole file. DataLoss for damage, Unimplemented for a codec or an encoding that is
// not read, by its name. At most kPageBytesMax a page.
absl::StatusOr<ColumnValues> ReadColumnValues(absl::string_view file, const ParquetColumn& column,
                                              const ParquetNode& leaf);

// A page is a megabyte by default; this much in one is a bomb.
inline constexpr int64_t kPageBytesMax = int64_t{512} << 20;

}  // namespace quantd::engine
