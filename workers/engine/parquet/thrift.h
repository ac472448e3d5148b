// Thrift's compact protocol, read only, as Parquet's footers and page headers use it. Structures
// are walked field by field; what a reader does not know it skips. Every read is bounded by the
// bytes at hand and the first error stays: callers check once, at the end.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

class ThriftReader {
 public:
  explicit ThriftReader(absl::string_view bytes) : bytes_(bytes) {}

  // Fields of the structure that the reader stands in: false at its end, or at an error.
  //   int id; for (ThriftReader::Scope scope; reader.Next(&scope, &id);) { ... }
  // Every field must be read (Integer, Bytes, ...) or skipped (Skip).
  struct Scope {
    int last_id = 0;
  };
  bool Next(Scope* scope, int* id);

  bool Bool();
  int64_t Integer();
  absl::string_view Bytes();
  // Elements of a list; each is then read like a field, a structure with a Scope of its own.
  int64_t List();
  void Skip();

  const absl::Status& status() const { return status_; }
  void Fail(absl::string_view why);
  // Bytes read so far.
  size_t position() const { return at_; }

 private:
  uint8_t Byte();
  uint64_t Varint();
  void SkipType(int type, int depth);

  absl::string_view bytes_;
  size_t at_ = 0;
  int type_ = 0;  // Of the field at hand.
  absl::Status status_;
};

}  // namespace quantd::engine
