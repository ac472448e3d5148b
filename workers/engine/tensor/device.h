// Where the work runs: picks and checks the device, sets threads and determinism, and measures
// memory. libtorch's CUDA half is opened with dlopen only when a GPU is wanted, so the engine
// starts on machines without one. Nothing here needs the CUDA toolkit.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd::engine {

// To be called before the first tensor is made: libtorch looks for its CUDA half once.
// "" or "auto": the first GPU if there is a usable one, else the CPU. "cpu", "cuda", "cuda:N"
// otherwise; FailedPrecondition says what is missing (driver, library, that many devices). Of
// several (below) the first, for work that one device does.
absl::StatusOr<at::Device> SelectDevice(absl::string_view name);
// Such a name, "cuda:all" for every GPU, or several as "cuda:0,cuda:1", of one type. The first one
// is where a thread's work goes that names none. "cpu,cpu" takes the CPU for two devices: what is
// shared out between GPUs can be tried without one.
absl::StatusOr<std::vector<at::Device>> SelectDevices(absl::string_view names);
// Where the calling thread's work goes that names no device; nothing for the CPU.
absl::Status UseDevice(at::Device device);

struct DeviceInfo {
  std::string type;  // "cpu" or "cuda".
  std::string name;
  int64_t memory_bytes = 0;
  std::string compute_capability;  // "9.0"; empty for a CPU.
  std::string driver_version;      // Empty for a CPU.
};
// The CPU first, then every GPU.
std::vector<DeviceInfo> ListDevices();

// Processors that this process may use: the affinity mask and the cgroup's quota, at least 1.
int AvailableProcessors();
// Threads that libtorch's operators use; 0: AvailableProcessors(). Call once, before the first
// operator.
void SetThreads(int threads);
// Seeds every generator and makes operators deterministic, so that equal inputs give equal bits on
// one machine.
absl::Status SetDeterministic(uint64_t seed);

struct HostMemory {
  int64_t resident_bytes = 0;  // Now.
  int64_t resident_peak_bytes =
      0;  // Since the start, or since ResetPeaks where the kernel allows it.
  // What may still be allocated: the machine's available memory or what the cgroup leaves, the
  // smaller one.
  int64_t available_bytes = 0;
};
HostMemory ReadHostMemory();

struct DeviceMemory {
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;       // Of the whole device, as the driver says.
  int64_t allocated_bytes = 0;  // By tensors of this process.
  int64_t peak_bytes = 0;       // Largest allocated_bytes since the start or ResetPeaks.
};
// Zeros for the CPU.
absl::StatusOr<DeviceMemory> ReadDeviceMemory(at::Device device);
void ResetPeaks(at::Device device);
// Gives cached blocks back to the driver; nothing for the CPU.
void EmptyDeviceCache(at::Device device);
// Waits until the device has done everything; nothing for the CPU. For clocks.
absl::Status Synchronize(at::Device device);

// Whether the device computes: allocates, multiplies two small matrices and compares with the CPU.
absl::Status Canary(at::Device device);

}  // namespace quantd::engine
