// The pickle inside a file of torch.save, as data: a dictionary of tensors, written and read
// without ever making an object. The reader knows the few opcodes and the few constructors that
// state dictionaries consist of and refuses everything else by name, so that no file can run code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workers/engine/checkpoint/safetensors.h"

namespace quantd::engine {

struct PickledTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::string storage;  // Its bytes are the archive's entry "data/<storage>".
  int64_t storage_elements = 0;
  int64_t offset = 0;  // Elements before the first.
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // In elements.
};

// Protocol 2; tensor i lies in storage "i", contiguous. For types that torch has (no U16 and above,
// no F8): InvalidArgument otherwise.
absl::StatusOr<std::string> WriteStateDict(absl::Span<const TensorInfo> tensors);

// The tensors in the order of the dictionary. DataLoss names the opcode or constructor that is
// refused and where it is; values that are no tensors are refused too, except in the attributes
// that torch keeps beside a dictionary.
absl::StatusOr<std::vector<PickledTensor>> ReadStateDict(absl::string_view pickle);

}  // namespace quantd::engine
