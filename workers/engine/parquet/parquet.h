// Parquet files, as the Hugging Face Hub has them, as the JSON objects that they stand for. Written
// for data sets of questions and texts: a file is read whole. What is not read is refused by name:
// encryption, codecs but none, snappy, gzip and zstd, encodings that hardly anybody writes.
// Decimals, times and bytes that are no UTF-8 (pictures, sound) come as null. See the format's
// specification, apache/parquet-format.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

// Whether the bytes begin as a Parquet file does.
bool IsParquet(absl::string_view bytes);

// One object a row, in the file's order. DataLoss says which column of which row group is damaged.
absl::StatusOr<std::vector<nlohmann::json>> ReadParquetRows(absl::string_view bytes);

// The same as JSON lines: what reads JSON lines reads Parquet through it.
absl::StatusOr<std::string> ParquetToJsonLines(absl::string_view bytes);

// Every row's `field`, each ending in a line break: a corpus as one text. InvalidArgument names the
// fields where there is no such one.
absl::StatusOr<std::string> ParquetToText(absl::string_view bytes, const std::string& field);

}  // namespace quantd::engine
