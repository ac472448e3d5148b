// The element types that a safetensors file may hold, by the names the format gives them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd::engine {

enum class DType {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF8E4M3,
  kF8E5M2,
  kF16,
  kBF16,
  kF32,
  kF64,
};

// "BOOL", "U8", ..., "F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64".
absl::string_view DTypeName(DType dtype);
// Bytes an element.
int64_t DTypeBytes(DType dtype);
std::optional<DType> ParseDType(absl::string_view name);
// All names, comma-separated, for messages.
std::string DTypeNames();

}  // namespace quantd::engine
