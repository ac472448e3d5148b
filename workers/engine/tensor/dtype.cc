// Tables between three ways to name an element type.
#include "workers/engine/tensor/dtype.h"

#include "absl/strings/str_cat.h"

namespace quantd::engine {
namespace {

struct Row {
  DType dtype;
  at::ScalarType type;
};

constexpr Row kRows[] = {
    {DType::kBool, at::kBool},
    {DType::kU8, at::kByte},
    {DType::kI8, at::kChar},
    {DType::kU16, at::ScalarType::UInt16},
    {DType::kI16, at::kShort},
    {DType::kU32, at::ScalarType::UInt32},
    {DType::kI32, at::kInt},
    {DType::kU64, at::ScalarType::UInt64},
    {DType::kI64, at::kLong},
    {DType::kF8E4M3, at::ScalarType::Float8_e4m3fn},
    {DType::kF8E5M2, at::ScalarType::Float8_e5m2},
    {DType::kF16, at::kHalf},
    {DType::kBF16, at::kBFloat16},
    {DType::kF32, at::kFloat},
    {DType::kF64, at::kDouble},
};

struct ComputeRow {
  absl::string_view name;
  at::ScalarType type;
};

constexpr ComputeRow kComputeRows[] = {
    {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};

}  // namespace

at::ScalarType ToScalarType(DType dtype) {
  for (const Row& row : kRows) {
    if (row.dtype == dtype) return row.type;
  }
  return at::ScalarType::Undefined;
}

absl::StatusOr<DType> ToDType(at::ScalarType type) {
  for (const Row& row : kRows) {
    if (row.type == type) return row.dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("safetensors cannot hold elements of type ", c10::toString(type)));
}

absl::StatusOr<at::ScalarType> ParseComputeDtype(absl::string_view name) {
  for (const ComputeRow& row : kComputeRows) {
    if (row.name == name) return row.type;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("dtype \"", name, "\" is unknown; known: float32, bfloat16, float16"));
}

absl::string_view ComputeDtypeName(at::ScalarType type) {
  for (const ComputeRow& row : kComputeRows) {
    if (row.type == type) return row.name;
  }
  return c10::toString(type);
}

}  // namespace quantd::engine
