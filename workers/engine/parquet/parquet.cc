// Records are put together again from their columns' levels, one row group at a time: a reader
// walks the schema with a cursor in every column (Melnik et al., Dremel, VLDB 2010).
#include "workers/engine/parquet/parquet.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "workers/engine/parquet/column.h"
#include "workers/engine/parquet/metadata.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

struct Cursor {
  ColumnValues column;
  size_t entry = 0, value = 0;
  uint32_t Definition() const {
    return entry < column.definition.size() ? column.definition[entry] : 0;
  }
  uint32_t Repetition() const {
    return entry < column.repetition.size() ? column.repetition[entry] : 0;
  }
  bool AtEnd() const { return entry >= static_cast<size_t>(column.entries); }
};

class Assembler {
 public:
  explicit Assembler(std::vector<Cursor> cursors) : cursors_(std::move(cursors)) {}

  absl::StatusOr<json> Row(const ParquetNode& root) {
    json row = Value(root);
    QD_RETURN_IF_ERROR(status_);
    return row;
  }
  bool AllRead() const {
    for (const Cursor& cursor : cursors_) {
      if (!cursor.AtEnd()) return false;
    }
    return true;
  }

 private:
  Cursor& First(const ParquetNode& node) { return cursors_[static_cast<size_t>(node.column)]; }

  // An entry that says that something above is missing stands in every column below it.
  void SkipMissing(const ParquetNode& node) {
    for (int i = node.column; i < node.column_end; ++i) ++cursors_[static_cast<size_t>(i)].entry;
  }

  bool Missing(const ParquetNode& node) {
    const Cursor& first = First(node);
    if (first.AtEnd()) Damaged();
    return !status_.ok() || first.Definition() < static_cast<uint32_t>(node.definition_level);
  }
  void Damaged() { status_.Update(absl::DataLossError("its levels do not fit its schema")); }

  json Field(const ParquetNode& node) {
    if (node.repetition == ParquetNode::kRepeated) return Repeated(node, false);
    if (node.repetition == ParquetNode::kOptional && Missing(node)) {
      SkipMissing(node);
      return nullptr;
    }
    return Value(node);
  }

  // `unwrap`: the middle level of a list, of which only the element is meant.
  json Repeated(const ParquetNode& node, bool unwrap) {
    json items = json::array();
    if (Missing(node)) {
      SkipMissing(node);
      return items;
    }
    const auto level = static_cast<uint32_t>(node.repetition_level);
    do {
      const size_t before = First(node).entry;
      items.push_back(unwrap ? Field(node.children[0]) : Value(node));
      if (First(node).entry == before) Damaged();
    } while (status_.ok() && !First(node).AtEnd() && First(node).Repetition() == level);
    return items;
  }

  // Three levels are the rule; older writers leave the middle one out.
  json List(const ParquetNode& node) {
    const ParquetNode& middle = node.children[0];
    const bool unwrap = middle.children.size() == 1 && middle.name != "array" &&
                        !absl::EndsWith(middle.name, "_tuple");
    return Repeated(middle, unwrap);
  }

  json Map(const ParquetNode& node) {
    json object = json::object();
    for (const json& pair : Repeated(node.children[0], false)) {
      const auto key = pair.begin();
      if (key == pair.end() || pair.size() != 2) continue;
      const ParquetNode& names = node.children[0];
      const json& name = pair[names.children[0].name];
      object[name.is_string() ? name.get<std::string>() : name.dump()] =
          pair[names.children[1].name];
    }
    return object;
  }

  json Value(const ParquetNode& node) {
    if (!status_.ok()) return nullptr;
    if (node.children.empty()) {
      if (node.column_end == node.column) return json::object();  // A schema without columns.
      Cursor& cursor = First(node);
      if (cursor.AtEnd() || cursor.value >= cursor.column.values.size()) {
        Damaged();
        return nullptr;
      }
      ++cursor.entry;
      return cursor.column.values[cursor.value++];
    }
    const bool one_repeated =
        node.children.size() == 1 && node.children[0].repetition == ParquetNode::kRepeated;
    if (node.is_list && one_repeated) return List(node);
    if (node.is_map && one_repeated && node.children[0].children.size() == 2) return Map(node);
    json object = json::object();
    for (const ParquetNode& child : node.children) object[child.name] = Field(child);
    return object;
  }

  std::vector<Cursor> cursors_;
  absl::Status status_;
};

absl::Status ReadGroup(absl::string_view bytes, const ParquetMetadata& metadata,
                       const ParquetRowGroup& group, std::vector<json>* rows) {
  std::vector<Cursor> cursors;
  for (size_t i = 0; i < metadata.leaves.size(); ++i) {
    QD_ASSIGN_OR_RETURN(cursors.emplace_back().column,
                        ReadColumnValues(bytes, group.columns[i], metadata.leaves[i]), "column ", i,
                        " (", metadata.leaves[i].name, ")");
  }
  // Without columns a count of rows is all there is, and any number is as good as another.
  if (cursors.empty()) return absl::DataLossError("it has no columns");
  Assembler assembler(std::move(cursors));
  for (int64_t i = 0; i < group.rows; ++i) {
    QD_ASSIGN_OR_RETURN(rows->emplace_back(), assembler.Row(metadata.root), "row ", rows->size());
  }
  return assembler.AllRead() ? absl::OkStatus()
                             : absl::DataLossError("its columns hold more than its rows");
}

}  // namespace

bool IsParquet(absl::string_view bytes) { return absl::StartsWith(bytes, "PAR1"); }

absl::StatusOr<std::vector<json>> ReadParquetRows(absl::string_view bytes) {
  QD_ASSIGN_OR_RETURN(const ParquetMetadata metadata, ReadParquetMetadata(bytes));
  std::vector<json> rows;
  for (size_t i = 0; i < metadata.row_groups.size(); ++i) {
    QD_RETURN_IF_ERROR(ReadGroup(bytes, metadata, metadata.row_groups[i], &rows), "row group ", i);
  }
  return rows;
}

absl::StatusOr<std::string> ParquetToJsonLines(absl::string_view bytes) {
  QD_ASSIGN_OR_RETURN(const std::vector<json> rows, ReadParquetRows(bytes));
  std::string lines;
  for (const json& row : rows) absl::StrAppend(&lines, row.dump(), "\n");
  return lines;
}

absl::StatusOr<std::string> ParquetToText(absl::string_view bytes, const std::string& field) {
  QD_ASSIGN_OR_RETURN(const std::vector<json> rows, ReadParquetRows(bytes));
  std::string text;
  for (const json& row : rows) {
    const auto found = row.find(field);
    if (found == row.end() || !found->is_string()) {
      std::vector<std::string> names;
      for (const auto& item : row.items()) names.push_back(item.key());
      return absl::InvalidArgumentError(
          absl::StrCat("a row has no text in the field \"", field,
                       "\"; its fields: ", absl::StrJoin(names, ", ")));
    }
    const std::string& line = found->get_ref<const std::string&>();
    absl::StrAppend(&text, line, absl::EndsWith(line, "\n") ? "" : "\n");
  }
  return text;
}

}  // namespace quantd::engine
