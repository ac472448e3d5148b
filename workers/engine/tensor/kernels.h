// Which kernels (kernels/table.h) work on a job's tensors: those for the host's memory, or those
// for a GPU's where the CUDA module can be used. QUANTD_BACKEND forces a choice, and one that is
// impossible is refused before anything is computed.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "absl/status/status.h"
#include "kernels/table.h"

namespace quantd::engine {

// InvalidArgument when QUANTD_BACKEND names what a job on `device` cannot use. To be called once
// the device is known.
absl::Status CheckKernels(at::Device device);
// Where kernels can work for a job on `device`: there, or on the CPU.
at::Device KernelDevice(at::Device device);
// The kernels for tensors on a device that KernelDevice gave.
const kernels::Backend& KernelsOn(at::Device device);
// Whether activations can be given to kernels where they are: 16 bits, and no gradient, which
// passes libtorch's operators only. Not every column has every operation.
bool KernelsTake(const at::Tensor& x);
// The bits of a 16-bit tensor; null where it is undefined.
const uint16_t* SixteenBits(const at::Tensor& tensor);
uint16_t* MutableSixteenBits(const at::Tensor& tensor);
// For records, of a job on `device`: "reference", "cpu" or "cuda".
std::string KernelsName(at::Device device);
// The stream that libtorch's operators use now; null for the CPU.
void* StreamOn(at::Device device);

}  // namespace quantd::engine
