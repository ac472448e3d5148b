// The JSON header of a safetensors file as data, checked for everything that can be said without
// the file's size. Internal to the room.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "workers/engine/checkpoint/dtype.h"

namespace quantd::engine {

// More than the largest mixture-of-experts model has in all its files; bounds the memory of the
// index.
constexpr int64_t kTensorsPerFileMax = 500'000;
constexpr int64_t kTensorNameBytesMax = 1024;
constexpr int64_t kTensorRankMax = 16;

struct HeaderTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct HeaderJson {
  std::vector<HeaderTensor> tensors;
  std::map<std::string, std::string> metadata;
};

// DataLoss names the tensor, the field and the value.
absl::Status ParseHeaderJson(absl::string_view text, HeaderJson* header);

// Whether `name` may be a tensor's: 1 to kTensorNameBytesMax bytes of UTF-8 without control
// characters, and not the header's own "__metadata__".
absl::Status CheckTensorName(absl::string_view name);

}  // namespace quantd::engine
