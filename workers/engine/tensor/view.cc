// Tensors over mapped bytes. from_blob never writes, and every caller is told not to.
#include "workers/engine/tensor/view.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {

absl::StatusOr<at::Tensor> ViewTensor(const TensorView& view) {
  return TorchCall("viewing a tensor", [&]() -> at::Tensor {
    const at::TensorOptions options = at::TensorOptions().dtype(ToScalarType(view.dtype));
    const auto address = reinterpret_cast<uintptr_t>(view.bytes.data());
    const bool aligned = address % static_cast<uintptr_t>(DTypeBytes(view.dtype)) == 0;
    if (aligned && !view.bytes.empty()) {
      return at::from_blob(const_cast<uint8_t*>(view.bytes.data()), view.shape, options);
    }
    at::Tensor copy = at::empty(view.shape, options);
    if (!view.bytes.empty()) std::memcpy(copy.data_ptr(), view.bytes.data(), view.bytes.size());
    return copy;
  });
}

absl::Span<const uint8_t> TensorBytes(const at::Tensor& tensor) {
  return absl::MakeConstSpan(static_cast<const uint8_t*>(tensor.const_data_ptr()), tensor.nbytes());
}

absl::Status WriteTensor(SafetensorsWriter& writer, absl::string_view name,
                         const at::Tensor& tensor) {
  QD_ASSIGN_OR_RETURN(const at::Tensor host,
                      TorchCall(absl::StrCat("bringing ", name, " to the host"),
                                [&] { return tensor.cpu().contiguous(); }));
  return writer.Write(name, TensorBytes(host));
}

absl::StatusOr<TensorInfo> DescribeTensor(absl::string_view name, const at::Tensor& tensor) {
  QD_ASSIGN_OR_RETURN(const DType dtype, ToDType(tensor.scalar_type()), "describing ", name);
  return TensorInfo{.name = std::string(name), .dtype = dtype, .shape = tensor.sizes().vec()};
}

}  // namespace quantd::engine
