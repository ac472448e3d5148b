// See kernels.h.
#include "workers/engine/tensor/kernels.h"

#include <ATen/DeviceAccelerator.h>

#include "absl/strings/str_cat.h"

namespace quantd::engine {

absl::Status CheckKernels(at::Device device) {
  const kernels::ActiveBackend& active = kernels::Active();
  if (!active.error.empty()) return absl::InvalidArgumentError(active.error);
  if (active.forced != "cuda" || device.is_cuda()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("QUANTD_BACKEND=cuda, but the job runs on ",
                                                 device.str(),
                                                 ": choose a GPU, or reference or cpu"));
}

at::Device KernelDevice(at::Device device) {
  return device.is_cuda() && kernels::ActiveOnDevice() == nullptr ? at::Device(at::kCPU) : device;
}

const kernels::Backend& KernelsOn(at::Device device) {
  return device.is_cuda() ? *kernels::ActiveOnDevice() : *kernels::Active().backend;
}

bool KernelsTake(const at::Tensor& x) {
  const bool sixteen = x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16;
  return sixteen && !x.requires_grad() && KernelDevice(x.device()) == x.device();
}

const uint16_t* SixteenBits(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const uint16_t*>(tensor.const_data_ptr()) : nullptr;
}

uint16_t* MutableSixteenBits(const at::Tensor& tensor) {
  return static_cast<uint16_t*>(tensor.mutable_data_ptr());
}

std::string KernelsName(at::Device device) {
  return std::string(KernelsOn(KernelDevice(device)).name);
}

void* StreamOn(at::Device device) {
  if (!device.is_cuda()) return nullptr;
  return at::accelerator::getCurrentStream(device.index()).native_handle();
}

}  // namespace quantd::engine
