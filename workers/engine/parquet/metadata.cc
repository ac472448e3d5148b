// Field numbers are those of parquet.thrift.
#include "workers/engine/parquet/metadata.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/parquet/thrift.h"

namespace quantd::engine {
namespace {

constexpr absl::string_view kMagic = "PAR1", kEncryptedMagic = "PARE";
constexpr size_t kTailBytes = 8;  // The footer's length, and the magic again.
constexpr int kDepthMax = 64;
constexpr size_t kNodesMax = 100'000;
// Of one column of a row group: a run of a few bytes can stand for any number.
constexpr int64_t kValuesMax = int64_t{1} << 26;

// The flat form in which the footer has the tree.
struct Element {
  ParquetNode node;
  int64_t children = 0;
  int converted = -1;
  bool has_type = false;
  bool is_decimal_or_time = false;
};

enum Converted {
  kUtf8 = 0,
  kMap = 1,
  kMapKeyValue = 2,
  kList = 3,
  kEnum = 4,
  kUint8 = 11,
  kUint64 = 14
};
enum Logical {
  kLogicalString = 1,
  kLogicalMap = 2,
  kLogicalList = 3,
  kLogicalEnum = 4,
  kLogicalInteger = 10,
  kLogicalJson = 12
};

// Only which member of the union is set, and an integer's sign.
void ReadLogical(ThriftReader* reader, Element* element) {
  int id = 0;
  for (ThriftReader::Scope scope; reader->Next(&scope, &id);) {
    element->node.is_list |= id == kLogicalList;
    element->node.is_map |= id == kLogicalMap;
    element->is_decimal_or_time |= id != kLogicalString && id != kLogicalMap &&
                                   id != kLogicalList && id != kLogicalEnum &&
                                   id != kLogicalInteger && id != kLogicalJson;
    reader->Skip();
  }
}

Element ReadElement(ThriftReader* reader) {
  Element element;
  int id = 0;
  for (ThriftReader::Scope scope; reader->Next(&scope, &id);) {
    switch (id) {
      case 1: {
        const int64_t type = reader->Integer();
        if (type < 0 || type > 7) reader->Fail("a column has a type that there is not");
        element.node.type = static_cast<ParquetType>(type);
        element.has_type = true;
        break;
      }
      case 3: {
        const int64_t repetition = reader->Integer();
        if (repetition < 0 || repetition > 2) reader->Fail("a repetition that there is not");
        element.node.repetition = static_cast<ParquetNode::Repetition>(repetition);
        break;
      }
      case 4:
        element.node.name = std::string(reader->Bytes());
        if (!IsValidUtf8(element.node.name)) reader->Fail("a column's name is no UTF-8");
        break;
      case 5:
        element.children = reader->Integer();
        break;
      case 6:
        element.converted = static_cast<int>(reader->Integer());
        break;
      case 10:
        ReadLogical(reader, &element);
        break;
      default:
        reader->Skip();
    }
  }
  const int converted = element.converted;
  element.node.is_list |= converted == kList;
  element.node.is_map |= converted == kMap || converted == kMapKeyValue;
  element.node.is_unsigned = converted >= kUint8 && converted <= kUint64;
  // 5 to 10: decimal, date, times; 20, 21: BSON, interval.
  element.is_decimal_or_time |= (converted >= 5 && converted <= 10) || converted >= 20;
  element.node.has_value = !element.is_decimal_or_time &&
                           element.node.type != ParquetType::kInt96 &&
                           element.node.type != ParquetType::kFixedBytes;
  return element;
}

ParquetColumn ReadColumnMetadata(ThriftReader* reader) {
  ParquetColumn column;
  int64_t data = 0, dictionary = -1;
  int id = 0;
  for (ThriftReader::Scope scope; reader->Next(&scope, &id);) {
    switch (id) {
      case 4:
        column.codec = static_cast<int>(reader->Integer());
        break;
      case 5:
        column.values = reader->Integer();
        break;
      case 7:
        column.size = reader->Integer();
        break;
      case 9:
        data = reader->Integer();
        break;
      case 11:
        dictionary = reader->Integer();
        break;
      default:
        reader->Skip();
    }
  }
  // Some writers say 0 for none.
  column.start = dictionary > 0 ? std::min(dictionary, data) : data;
  return column;
}

ParquetColumn ReadColumn(ThriftReader* reader) {
  ParquetColumn column;
  int id = 0;
  for (ThriftReader::Scope scope; reader->Next(&scope, &id);) {
    if (id == 3) {
      column = ReadColumnMetadata(reader);
      continue;
    }
    if (id == 1) reader->Fail("a column lies in another file");
    if (id == 8) reader->Fail("a column is encrypted");
    reader->Skip();
  }
  return column;
}

ParquetRowGroup ReadRowGroup(ThriftReader* reader) {
  ParquetRowGroup group;
  int id = 0;
  for (ThriftReader::Scope scope; reader->Next(&scope, &id);) {
    if (id == 1) {
      const int64_t count = reader->List();
      for (int64_t i = 0; i < count && reader->status().ok(); ++i) {
        group.columns.push_back(ReadColumn(reader));
      }
    } else if (id == 3) {
      group.rows = reader->Integer();
    } else {
      reader->Skip();
    }
  }
  return group;
}

// Takes the elements from `next` on into a tree, depth first, as they lie.
absl::StatusOr<ParquetNode> BuildTree(std::vector<Element>* elements, size_t* next,
                                      const ParquetNode* parent, int depth, int* column) {
  if (*next >= elements->size() || depth > kDepthMax) {
    return absl::DataLossError("the schema's tree is damaged");
  }
  Element& element = (*elements)[(*next)++];
  ParquetNode node = std::move(element.node);
  if (parent != nullptr) {
    node.definition_level =
        parent->definition_level + (node.repetition == ParquetNode::kRequired ? 0 : 1);
    node.repetition_level =
        parent->repetition_level + (node.repetition == ParquetNode::kRepeated ? 1 : 0);
  }
  node.column = *column;
  if (element.children == 0 && parent != nullptr) {
    if (!element.has_type) return absl::DataLossError("a column has no type");
    ++*column;
  }
  for (int64_t i = 0; i < element.children; ++i) {
    QD_ASSIGN_OR_RETURN(node.children.emplace_back(),
                        BuildTree(elements, next, &node, depth + 1, column));
  }
  node.column_end = *column;
  return node;
}

void CollectLeaves(const ParquetNode& node, std::vector<ParquetNode>* leaves) {
  if (node.children.empty() && node.column_end > node.column) leaves->push_back(node);
  for (const ParquetNode& child : node.children) CollectLeaves(child, leaves);
}

absl::Status CheckRowGroups(const ParquetMetadata& metadata, int64_t file_bytes) {
  int64_t rows = 0;
  for (const ParquetRowGroup& group : metadata.row_groups) {
    if (group.columns.size() != metadata.leaves.size() || group.rows < 0) {
      return absl::DataLossError(absl::StrCat("a row group has ", group.columns.size(),
                                              " columns, the schema ", metadata.leaves.size()));
    }
    rows += group.rows;
    for (const ParquetColumn& column : group.columns) {
      if (column.values == 0) continue;  // It may have no place at all.
      if (column.start < 4 || column.size < 0 || column.start > file_bytes ||
          column.size > file_bytes - column.start || column.values < 0) {
        return absl::DataLossError("a column lies outside the file");
      }
      if (column.values > kValuesMax) {
        return absl::ResourceExhaustedError(
            absl::StrCat("a column's part holds ", column.values, " values; ", kValuesMax,
                         " are read at most: write smaller row groups"));
      }
    }
  }
  if (rows != metadata.rows) {
    return absl::DataLossError(
        absl::StrCat("the row groups hold ", rows, " rows, the file says ", metadata.rows));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ParquetMetadata> ReadParquetMetadata(absl::string_view file) {
  if (file.size() < kMagic.size() + kTailBytes || file.substr(0, 4) != kMagic) {
    return absl::DataLossError("is no Parquet file");
  }
  if (file.substr(file.size() - 4) == kEncryptedMagic) {
    return absl::UnimplementedError("its footer is encrypted");
  }
  if (file.substr(file.size() - 4) != kMagic) return absl::DataLossError("its end is missing");
  uint32_t length = 0;
  for (int i = 3; i >= 0; --i) {
    length =
        length << 8 | static_cast<uint8_t>(file[file.size() - kTailBytes + static_cast<size_t>(i)]);
  }
  if (length > file.size() - kMagic.size() - kTailBytes) {
    return absl::DataLossError("its footer is longer than the file");
  }
  ThriftReader reader(file.substr(file.size() - kTailBytes - length, length));
  ParquetMetadata metadata;
  std::vector<Element> elements;
  int id = 0;
  for (ThriftReader::Scope scope; reader.Next(&scope, &id);) {
    if (id == 2) {
      const int64_t count = reader.List();
      if (static_cast<size_t>(count) > kNodesMax) reader.Fail("the schema is too large");
      for (int64_t i = 0; i < count && reader.status().ok(); ++i) {
        elements.push_back(ReadElement(&reader));
      }
    } else if (id == 3) {
      metadata.rows = reader.Integer();
    } else if (id == 4) {
      const int64_t count = reader.List();
      for (int64_t i = 0; i < count && reader.status().ok(); ++i) {
        metadata.row_groups.push_back(ReadRowGroup(&reader));
      }
    } else {
      reader.Skip();
    }
  }
  QD_RETURN_IF_ERROR(reader.status(), "its footer");
  size_t next = 0;
  int column = 0;
  QD_ASSIGN_OR_RETURN(metadata.root, BuildTree(&elements, &next, nullptr, 0, &column));
  if (next != elements.size()) return absl::DataLossError("the schema's tree is damaged");
  CollectLeaves(metadata.root, &metadata.leaves);
  QD_RETURN_IF_ERROR(CheckRowGroups(metadata, static_cast<int64_t>(file.size())));
  return metadata;
}

}  // namespace quantd::engine
