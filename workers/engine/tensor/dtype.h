// Between safetensors' element types, ATen's, and the names that users write.
#pragma once

#include <c10/core/ScalarType.h>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/dtype.h"

namespace quantd::engine {

at::ScalarType ToScalarType(DType dtype);
// InvalidArgument for types that a safetensors file cannot hold.
absl::StatusOr<DType> ToDType(at::ScalarType type);

// "float32", "bfloat16" or "float16"; InvalidArgument names the three.
absl::StatusOr<at::ScalarType> ParseComputeDtype(absl::string_view name);
absl::string_view ComputeDtypeName(at::ScalarType type);

}  // namespace quantd::engine
