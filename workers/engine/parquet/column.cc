// Pages in order: a dictionary perhaps, then data pages of version 1 or 2.
#include "workers/engine/parquet/column.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "workers/engine/parquet/encodings.h"
#include "workers/engine/parquet/thrift.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

enum PageType { kDataPage = 0, kDictionaryPage = 2, kDataPageV2 = 3 };
enum Encoding {
  kPlain = 0,
  kPlainDictionary = 2,
  kRle = 3,
  kDelta = 5,
  kDeltaLength = 6,
  kDeltaText = 7,
  kRleDictionary = 8
};
constexpr const char* kEncodingNames[] = {
    "PLAIN",          "GROUP_VAR_INT",       "PLAIN_DICTIONARY",        "RLE",
    "BIT_PACKED",     "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY",
    "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"};

struct PageHeader {
  int type = -1;
  int64_t size = 0, packed_size = 0;  // Uncompressed, as it lies.
  int64_t values = 0;
  int encoding = kPlain;
  int level_encoding = kRle;
  int64_t definition_bytes = 0, repetition_bytes = 0;  // Version 2.
  bool packed = true;                                  // Version 2: values may lie as they are.
};

// Of all three kinds of page, whose fields agree in part; version 2 has the level sizes.
void ReadPageDetails(ThriftReader* reader, bool version2, PageHeader* header) {
  int id = 0;
  for (ThriftReader::Scope scope; reader->Next(&scope, &id);) {
    if (id == 1) {
      header->values = reader->Integer();
    } else if ((!version2 && id == 2) || (version2 && id == 4)) {
      header->encoding = static_cast<int>(reader->Integer());
    } else if (version2 && id == 5) {
      header->definition_bytes = reader->Integer();
    } else if (version2 && id == 6) {
      header->repetition_bytes = reader->Integer();
    } else if (version2 && id == 7) {
      header->packed = reader->Bool();
    } else {
      reader->Skip();
    }
  }
}

absl::StatusOr<PageHeader> ReadPageHeader(absl::string_view bytes, size_t* used) {
  ThriftReader reader(bytes);
  PageHeader header;
  int id = 0;
  for (ThriftReader::Scope scope; reader.Next(&scope, &id);) {
    if (id == 1) {
      header.type = static_cast<int>(reader.Integer());
    } else if (id == 2) {
      header.size = reader.Integer();
    } else if (id == 3) {
      header.packed_size = reader.Integer();
    } else if (id == 5 || id == 7 || id == 8) {
      ReadPageDetails(&reader, id == 8, &header);
    } else {
      reader.Skip();
    }
  }
  QD_RETURN_IF_ERROR(reader.status(), "a page's head");
  *used = reader.position();
  if (header.size < 0 || header.size > kPageBytesMax || header.packed_size < 0 ||
      static_cast<uint64_t>(header.packed_size) > bytes.size() - *used || header.values < 0 ||
      header.definition_bytes < 0 || header.repetition_bytes < 0 ||
      header.definition_bytes + header.repetition_bytes > header.size ||
      header.definition_bytes + header.repetition_bytes > header.packed_size) {
    return absl::DataLossError("a page's sizes are damaged");
  }
  return header;
}

int WidthOf(int maximum) {
  int width = 0;
  while (maximum >> width != 0) ++width;
  return width;
}

json Text(absl::string_view bytes) {
  return IsValidUtf8(bytes) ? json(std::string(bytes)) : json();
}

template <typename Number>
absl::Status PlainNumbers(absl::string_view bytes, int64_t count, std::vector<json>* values) {
  if (bytes.size() / sizeof(Number) < static_cast<size_t>(count)) {
    return absl::DataLossError("a page's values end early");
  }
  for (int64_t i = 0; i < count; ++i) {
    Number number;
    std::memcpy(&number, bytes.data() + static_cast<size_t>(i) * sizeof(Number), sizeof(Number));
    values->push_back(number);
    if constexpr (std::is_floating_point_v<Number>) {
      if (!std::isfinite(number)) values->back() = nullptr;
    }
  }
  return absl::OkStatus();
}

absl::Status PlainTexts(absl::string_view bytes, int64_t count, std::vector<json>* values) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t length = 0;
    if (bytes.size() < sizeof length) return absl::DataLossError("a page's values end early");
    std::memcpy(&length, bytes.data(), sizeof length);
    bytes.remove_prefix(sizeof length);
    if (bytes.size() < length) return absl::DataLossError("a page's text ends early");
    values->push_back(Text(bytes.substr(0, length)));
    bytes.remove_prefix(length);
  }
  return absl::OkStatus();
}

absl::Status PlainValues(absl::string_view bytes, const ParquetNode& leaf, int64_t count,
                         std::vector<json>* values) {
  switch (leaf.type) {
    case ParquetType::kBool:
      if (bytes.size() < static_cast<size_t>((count + 7) / 8)) {
        return absl::DataLossError("a page's values end early");
      }
      for (int64_t i = 0; i < count; ++i) {
        values->push_back(
            (static_cast<uint8_t>(bytes[static_cast<size_t>(i / 8)]) >> (i % 8) & 1) != 0);
      }
      return absl::OkStatus();
    case ParquetType::kInt32:
      return leaf.is_unsigned ? PlainNumbers<uint32_t>(bytes, count, values)
                              : PlainNumbers<int32_t>(bytes, count, values);
    case ParquetType::kInt64:
      return leaf.is_unsigned ? PlainNumbers<uint64_t>(bytes, count, values)
                              : PlainNumbers<int64_t>(bytes, count, values);
    case ParquetType::kFloat:
      return PlainNumbers<float>(bytes, count, values);
    case ParquetType::kDouble:
      return PlainNumbers<double>(bytes, count, values);
    case ParquetType::kBytes:
      return PlainTexts(bytes, count, values);
    default:
      return absl::InternalError("a type without a JSON form was read");
  }
}

absl::Status DeltaNumbers(absl::string_view bytes, const ParquetNode& leaf, int64_t count,
                          std::vector<json>* values) {
  std::vector<int64_t> numbers;
  size_t used = 0;
  QD_RETURN_IF_ERROR(DecodeDeltas(bytes, count, &numbers, &used));
  const bool narrow = leaf.type == ParquetType::kInt32;
  for (const int64_t number : numbers) {
    if (leaf.is_unsigned) {
      values->push_back(narrow ? static_cast<uint32_t>(number) : static_cast<uint64_t>(number));
    } else {
      values->push_back(narrow ? static_cast<int32_t>(number) : number);
    }
  }
  return absl::OkStatus();
}

absl::Status DeltaTexts(absl::string_view bytes, bool shared, int64_t count,
                        std::vector<json>* values) {
  std::vector<std::string> texts;
  size_t used = 0;
  QD_RETURN_IF_ERROR(shared ? DecodeDeltaTexts(bytes, count, &texts)
                            : DecodeDeltaLengths(bytes, count, &texts, &used));
  for (const std::string& text : texts) values->push_back(Text(text));
  return absl::OkStatus();
}

absl::Status DictionaryValues(absl::string_view bytes, const std::vector<json>& dictionary,
                              int64_t count, std::vector<json>* values) {
  if (count == 0) return absl::OkStatus();
  if (bytes.empty()) return absl::DataLossError("a page's values end early");
  std::vector<uint32_t> indices;
  QD_RETURN_IF_ERROR(DecodeRuns(bytes.substr(1), static_cast<uint8_t>(bytes[0]), count, &indices));
  for (const uint32_t index : indices) {
    if (index >= dictionary.size()) {
      return absl::DataLossError(absl::StrCat("value ", index, " of a dictionary of ",
                                              dictionary.size(), " is asked for"));
    }
    values->push_back(dictionary[index]);
  }
  return absl::OkStatus();
}

// Booleans as runs, behind their length.
absl::Status RunBooleans(absl::string_view bytes, int64_t count, std::vector<json>* values) {
  std::vector<uint32_t> bits;
  if (bytes.size() < 4) return absl::DataLossError("a page's values end early");
  QD_RETURN_IF_ERROR(DecodeRuns(bytes.substr(4), 1, count, &bits));
  for (const uint32_t bit : bits) values->push_back(bit != 0);
  return absl::OkStatus();
}

absl::Status Values(absl::string_view bytes, int encoding, const ParquetNode& leaf,
                    const std::vector<json>& dictionary, int64_t count, std::vector<json>* values) {
  if (!leaf.has_value) {
    values->insert(values->end(), static_cast<size_t>(count), json());
    return absl::OkStatus();
  }
  const bool integer = leaf.type == ParquetType::kInt32 || leaf.type == ParquetType::kInt64;
  const bool text = leaf.type == ParquetType::kBytes;
  if (encoding == kPlain) return PlainValues(bytes, leaf, count, values);
  if (encoding == kPlainDictionary || encoding == kRleDictionary) {
    return DictionaryValues(bytes, dictionary, count, values);
  }
  if (encoding == kRle && leaf.type == ParquetType::kBool) return RunBooleans(bytes, count, values);
  if (encoding == kDelta && integer) return DeltaNumbers(bytes, leaf, count, values);
  if ((encoding == kDeltaLength || encoding == kDeltaText) && text) {
    return DeltaTexts(bytes, encoding == kDeltaText, count, values);
  }
  const bool known = encoding >= 0 && encoding < static_cast<int>(std::size(kEncodingNames));
  return absl::UnimplementedError(
      absl::StrCat("is in the encoding ", known ? kEncodingNames[encoding] : "of an unknown number",
                   ", which is not read for this type"));
}

// A version 1 page's levels lie in front of its values, each list behind its length.
absl::Status TakeLevels(absl::string_view* bytes, int maximum, int64_t count,
                        std::vector<uint32_t>* levels) {
  if (maximum == 0) return absl::OkStatus();
  uint32_t length = 0;
  if (bytes->size() < sizeof length) return absl::DataLossError("a page's levels end early");
  std::memcpy(&length, bytes->data(), sizeof length);
  bytes->remove_prefix(sizeof length);
  if (bytes->size() < length) return absl::DataLossError("a page's levels end early");
  QD_RETURN_IF_ERROR(DecodeRuns(bytes->substr(0, length), WidthOf(maximum), count, levels));
  bytes->remove_prefix(length);
  return absl::OkStatus();
}

class ColumnReader {
 public:
  explicit ColumnReader(const ParquetNode& leaf, int codec) : leaf_(leaf), codec_(codec) {}

  absl::Status Page(const PageHeader& header, absl::string_view bytes) {
    switch (header.type) {
      case kDictionaryPage: {
        if (!leaf_.has_value) return absl::OkStatus();
        QD_ASSIGN_OR_RETURN(const std::string page, Decompress(codec_, bytes, Size(header.size)));
        dictionary_.clear();
        return PlainValues(page, leaf_, header.values, &dictionary_);
      }
      case kDataPage:
        return DataPage(header, bytes);
      case kDataPageV2:
        return DataPageV2(header, bytes);
      default:
        return absl::OkStatus();  // An index.
    }
  }
  ColumnValues Take() { return std::move(out_); }
  int64_t entries() const { return out_.entries; }

 private:
  static size_t Size(int64_t bytes) { return static_cast<size_t>(bytes); }

  absl::Status DataPage(const PageHeader& header, absl::string_view bytes) {
    QD_ASSIGN_OR_RETURN(const std::string page, Decompress(codec_, bytes, Size(header.size)));
    absl::string_view rest = page;
    const size_t before = out_.definition.size();
    QD_RETURN_IF_ERROR(TakeLevels(&rest, leaf_.repetition_level, header.values, &out_.repetition));
    QD_RETURN_IF_ERROR(TakeLevels(&rest, leaf_.definition_level, header.values, &out_.definition));
    return TakeValues(header, rest, before);
  }

  absl::Status DataPageV2(const PageHeader& header, absl::string_view bytes) {
    const size_t before = out_.definition.size();
    const size_t repetition = Size(header.repetition_bytes);
    const size_t levels = repetition + Size(header.definition_bytes);
    if (leaf_.repetition_level > 0) {
      QD_RETURN_IF_ERROR(DecodeRuns(bytes.substr(0, repetition), WidthOf(leaf_.repetition_level),
                                    header.values, &out_.repetition));
    }
    if (leaf_.definition_level > 0) {
      QD_RETURN_IF_ERROR(DecodeRuns(bytes.substr(repetition, levels - repetition),
                                    WidthOf(leaf_.definition_level), header.values,
                                    &out_.definition));
    }
    const absl::string_view rest = bytes.substr(levels);
    if (!header.packed || codec_ == 0) return TakeValues(header, rest, before);
    // A page of missing values alone may have nothing to decompress.
    if (rest.empty()) return TakeValues(header, "", before);
    QD_ASSIGN_OR_RETURN(const std::string page,
                        Decompress(codec_, rest, Size(header.size) - levels));
    return TakeValues(header, page, before);
  }

  absl::Status TakeValues(const PageHeader& header, absl::string_view bytes, size_t before) {
    int64_t there = header.values;
    if (leaf_.definition_level > 0) {
      there = std::count(out_.definition.begin() + static_cast<ptrdiff_t>(before),
                         out_.definition.end(), static_cast<uint32_t>(leaf_.definition_level));
    }
    out_.entries += header.values;
    return Values(bytes, header.encoding, leaf_, dictionary_, there, &out_.values);
  }

  const ParquetNode& leaf_;
  const int codec_;
  std::vector<json> dictionary_;
  ColumnValues out_;
};

}  // namespace

absl::StatusOr<ColumnValues> ReadColumnValues(absl::string_view file, const ParquetColumn& column,
                                              const ParquetNode& leaf) {
  if (column.values == 0) return ColumnValues();
  absl::string_view pages =
      file.substr(static_cast<size_t>(column.start), static_cast<size_t>(column.size));
  ColumnReader reader(leaf, column.codec);
  while (!pages.empty() && reader.entries() < column.values) {
    size_t used = 0;
    QD_ASSIGN_OR_RETURN(const PageHeader header, ReadPageHeader(pages, &used));
    if (header.values > column.values - reader.entries() && header.type != kDictionaryPage) {
      return absl::DataLossError("a page holds more values than its column");
    }
    const auto packed = static_cast<size_t>(header.packed_size);
    QD_RETURN_IF_ERROR(reader.Page(header, pages.substr(used, packed)));
    pages.remove_prefix(used + packed);
  }
  if (reader.entries() != column.values) {
    return absl::DataLossError(absl::StrCat("its pages hold ", reader.entries(),
                                            " values, not the ", column.values,
                                            " that the footer says"));
  }
  return reader.Take();
}

}  // namespace quantd::engine
