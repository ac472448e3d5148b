// The calibration activations between two blocks: on the device while they fit, in host memory, or
// in a file of the work folder when even that is too small.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd::engine {

struct ActivationShape {
  int64_t sequences = 0;
  int64_t length = 0;
  int64_t width = 0;
  at::ScalarType dtype = at::kFloat;
  int64_t Bytes() const;
};

// Not thread-safe.
class ActivationStore {
 public:
  static absl::StatusOr<ActivationStore> InMemory(const ActivationShape& shape, at::Device device);
  // Backed by a temporary file in `folder`, already unlinked: its pages can leave memory at any
  // time.
  static absl::StatusOr<ActivationStore> InFile(const ActivationShape& shape,
                                                const std::string& folder);

  int64_t sequences() const { return store_.defined() ? store_.size(0) : 0; }
  // Sequences [begin, begin + count) as [count, T, H] on `device`. May share memory with the store.
  absl::StatusOr<at::Tensor> Read(int64_t begin, int64_t count, at::Device device) const;
  absl::Status Write(int64_t begin, const at::Tensor& values);
  bool on_device() const { return store_.defined() && store_.is_cuda(); }
  absl::Status MoveToHost();

 private:
  // Lets the file's pages of these sequences go.
  void Release(int64_t begin, int64_t count) const;
  at::Tensor store_;  // [S, T, H]
  bool in_file_ = false;
};

}  // namespace quantd::engine
