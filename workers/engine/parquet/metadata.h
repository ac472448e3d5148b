// A Parquet file's footer: its schema as a tree, its row groups and where their columns lie.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

enum class ParquetType { kBool, kInt32, kInt64, kInt96, kFloat, kDouble, kBytes, kFixedBytes };

struct ParquetNode {
  enum Repetition { kRequired, kOptional, kRepeated };
  std::string name;
  Repetition repetition = kRequired;
  bool is_list = false, is_map = false;  // By annotation.
  bool is_unsigned = false;
  // Whether values of this type are taken: texts, booleans, integers and floats. Others (decimals,
  // times, fixed bytes) have no JSON form and come as null.
  bool has_value = true;
  ParquetType type = ParquetType::kBytes;
  // Levels of a value that is there (Dremel, Melnik et al. 2010).
  int definition_level = 0, repetition_level = 0;
  std::vector<ParquetNode> children;  // Empty: a column.
  int column = -1;                    // Index of the column; of a group that of its first.
  int column_end = 0;                 // One past its last.
};

struct ParquetColumn {
  int64_t values = 0;
  int64_t start = 0, size = 0;  // Of all its pages, dictionary first.
  int codec = 0;
};

struct ParquetRowGroup {
  int64_t rows = 0;
  std::vector<ParquetColumn> columns;
};

struct ParquetMetadata {
  ParquetNode root;
  std::vector<ParquetNode> leaves;  // By column, without children.
  std::vector<ParquetRowGroup> row_groups;
  int64_t rows = 0;
};

// DataLoss for what is damaged, Unimplemented for encryption.
absl::StatusOr<ParquetMetadata> ReadParquetMetadata(absl::string_view file);

}  // namespace quantd::engine
