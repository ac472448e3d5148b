// The border between libtorch, which throws, and the engine, which returns absl::Status.
//
//   QD_ASSIGN_OR_RETURN(at::Tensor y, TorchCall("multiplying", [&] { return at::matmul(a, b); }));
//
// Gradients are off inside, unless a GradientScope is open. A lambda may return a value, nothing,
// an absl::Status or an absl::StatusOr. Out of memory (device or host) becomes ResourceExhausted of
// class OUT_OF_MEMORY, for which job/failure.h has IsOutOfMemory(); a fault of the accelerator
// Internal of class DEVICE_FAULT; everything else Internal.
#pragma once

#include <ATen/core/grad_mode.h>

#include <exception>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

absl::Status OutOfMemoryError(absl::string_view message);

// As long as one exists in this thread, TorchCall records gradients: for the few places that learn
// something on a block's output.
class GradientScope {
 public:
  GradientScope();
  ~GradientScope();
  GradientScope(const GradientScope&) = delete;
  GradientScope& operator=(const GradientScope&) = delete;
  static bool open();
};

namespace torch_internal {
// The exception in flight as a status. To be called inside a catch block.
absl::Status CurrentException(absl::string_view words);

template <typename T>
struct Result {
  using type = absl::StatusOr<T>;
};
template <>
struct Result<void> {
  using type = absl::Status;
};
template <>
struct Result<absl::Status> {
  using type = absl::Status;
};
template <typename T>
struct Result<absl::StatusOr<T>> {
  using type = absl::StatusOr<T>;
};
}  // namespace torch_internal

template <typename F>
auto TorchCall(absl::string_view words, F&& body) ->
    typename torch_internal::Result<std::invoke_result_t<F>>::type {
  try {
    const at::AutoGradMode gradients(GradientScope::open());
    if constexpr (std::is_void_v<std::invoke_result_t<F>>) {
      std::forward<F>(body)();
      return absl::OkStatus();
    } else {
      return std::forward<F>(body)();
    }
  } catch (...) {
    return torch_internal::CurrentException(words);
  }
}

}  // namespace quantd::engine
