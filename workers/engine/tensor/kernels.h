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
// For records, of a job on `device`: "reference", "cpu" or "cuda".
std::string KernelsName(at::Device device);
// The stream that libtorch's operators use now; null for the CPU.
void* StreamOn(at::Device device);

}  // namespace quantd::engine
