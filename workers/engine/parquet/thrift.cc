// Types by the protocol's numbers.
#include "workers/engine/parquet/thrift.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace quantd::engine {
namespace {

enum Type {
  kStop,
  kTrue,
  kFalse,
  kByte,
  kI16,
  kI32,
  kI64,
  kDouble,
  kBinary,
  kList,
  kSet,
  kMap,
  kStruct
};

// Structures in structures; Parquet has five.
constexpr int kDepthMax = 32;
constexpr int kVarintBytesMax = 10;

int64_t ZigZag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}

}  // namespace

void ThriftReader::Fail(absl::string_view why) {
  if (status_.ok()) status_ = absl::DataLossError(absl::StrCat("at byte ", at_, ": ", why));
  at_ = bytes_.size();
}

uint8_t ThriftReader::Byte() {
  if (at_ >= bytes_.size()) {
    Fail("the metadata ends early");
    return 0;
  }
  return static_cast<uint8_t>(bytes_[at_++]);
}

uint64_t ThriftReader::Varint() {
  uint64_t value = 0;
  for (int i = 0; i < kVarintBytesMax; ++i) {
    const uint8_t byte = Byte();
    value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) return value;
  }
  Fail("a number has no end");
  return 0;
}

bool ThriftReader::Next(Scope* scope, int* id) {
  const uint8_t head = Byte();
  type_ = head & 0x0f;
  if (!status_.ok() || type_ == kStop) return false;
  const int delta = head >> 4;
  const int64_t next = delta == 0 ? ZigZag(Varint()) : scope->last_id + delta;
  if (next < 0 || next > 0x7fff) Fail("a field's number is out of range");
  scope->last_id = static_cast<int>(next);
  *id = scope->last_id;
  return status_.ok();
}

bool ThriftReader::Bool() {
  if (type_ != kTrue && type_ != kFalse) Fail("a field is no boolean");
  return type_ == kTrue;
}

int64_t ThriftReader::Integer() {
  if (type_ < kI16 || type_ > kI64) {
    Fail("a field is no integer");
    return 0;
  }
  return ZigZag(Varint());
}

absl::string_view ThriftReader::Bytes() {
  const uint64_t size = type_ == kBinary ? Varint() : 0;
  if (type_ != kBinary || size > bytes_.size() - at_) {
    Fail("a field holds no bytes, or more than there are");
    return "";
  }
  at_ += size;
  return bytes_.substr(at_ - size, size);
}

int64_t ThriftReader::List() {
  if (type_ != kList && type_ != kSet) {
    Fail("a field is no list");
    return 0;
  }
  const uint8_t head = Byte();
  const uint64_t count = head >> 4 == 15 ? Varint() : head >> 4;
  type_ = head & 0x0f;
  // Every element takes a byte at least.
  if (count > bytes_.size() - at_) {
    Fail("a list is longer than the file");
    return 0;
  }
  return static_cast<int64_t>(count);
}

void ThriftReader::Skip() { SkipType(type_, 0); }

void ThriftReader::SkipType(int type, int depth) {
  if (!status_.ok()) return;
  if (depth > kDepthMax) return Fail("structures are nested too deeply");
  switch (type) {
    case kTrue:
    case kFalse:
      return;
    case kByte:
      Byte();
      return;
    case kI16:
    case kI32:
    case kI64:
      Varint();
      return;
    case kDouble:
      if (bytes_.size() - at_ < 8) return Fail("the metadata ends early");
      at_ += 8;
      return;
    case kBinary:
      type_ = kBinary;
      Bytes();
      return;
    case kList:
    case kSet: {
      type_ = type;
      const int64_t count = List();
      const int element = type_;
      for (int64_t i = 0; i < count && status_.ok(); ++i) {
        // In lists a boolean is a byte.
        SkipType(element == kTrue || element == kFalse ? kByte : element, depth + 1);
      }
      return;
    }
    case kMap: {
      const uint64_t count = Varint();
      if (count == 0) return;
      const uint8_t types = Byte();
      for (uint64_t i = 0; i < count && status_.ok(); ++i) {
        SkipType(types >> 4, depth + 1);
        SkipType(types & 0x0f, depth + 1);
      }
      return;
    }
    case kStruct: {
      int id = 0;
      for (Scope scope; Next(&scope, &id);) SkipType(type_, depth + 1);
      return;
    }
    default:
      Fail("a field has a type that there is not");
  }
}

}  // namespace quantd::engine
