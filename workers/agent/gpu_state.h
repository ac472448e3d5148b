// What the driver says about the GPUs of this machine, read through NVML, which is opened at run
// time: a worker without a GPU needs no library of one.
#pragma once

#include <cstdint>
#include <vector>

namespace quantd {

struct GpuState {
  int64_t memory_used_bytes = -1;  // Each value is -1 where the driver does not tell it.
  double utilization_ratio = -1;   // 0 to 1.
  double temperature_celsius = -1;
};

// One entry per GPU in the driver's order; empty without a driver. Thread-safe.
std::vector<GpuState> ReadGpuStates();

}  // namespace quantd
