// How torch names the storages of element types. Internal to the room.
#pragma once

#include <optional>

#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/dtype.h"

namespace quantd::engine {

struct TorchStorage {
  DType dtype;
  absl::string_view name;
};
constexpr TorchStorage kTorchStorages[] = {
    {DType::kBool, "BoolStorage"}, {DType::kU8, "ByteStorage"},
    {DType::kI8, "CharStorage"},   {DType::kI16, "ShortStorage"},
    {DType::kI32, "IntStorage"},   {DType::kI64, "LongStorage"},
    {DType::kF16, "HalfStorage"},  {DType::kBF16, "BFloat16Storage"},
    {DType::kF32, "FloatStorage"}, {DType::kF64, "DoubleStorage"},
};

}  // namespace quantd::engine
