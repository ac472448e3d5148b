// The few NVML calls that are needed, declared here as nvml.h declares them (their ABI is stable),
// so that building needs no CUDA toolkit.
#include "workers/agent/gpu_state.h"

#include <dlfcn.h>

namespace quantd {
namespace {

using Handle = struct NvmlDevice*;
struct Memory {
  unsigned long long total, free, used;
};
struct Utilization {
  unsigned int gpu, memory;
};
constexpr int kTemperatureGpu = 0;

struct Nvml {
  int (*init)() = nullptr;
  int (*count)(unsigned int*) = nullptr;
  int (*handle)(unsigned int, Handle*) = nullptr;
  int (*memory)(Handle, Memory*) = nullptr;
  int (*utilization)(Handle, Utilization*) = nullptr;
  int (*temperature)(Handle, int, unsigned int*) = nullptr;
  bool usable = false;
};

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Opened once and never closed: the driver's library does not like to be reopened.
const Nvml& Library() {
  static const Nvml nvml = [] {
    Nvml made;
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    made.usable = library != nullptr && Find(library, "nvmlInit_v2", &made.init) &&
                  Find(library, "nvmlDeviceGetCount_v2", &made.count) &&
                  Find(library, "nvmlDeviceGetHandleByIndex_v2", &made.handle) &&
                  Find(library, "nvmlDeviceGetMemoryInfo", &made.memory) &&
                  Find(library, "nvmlDeviceGetUtilizationRates", &made.utilization) &&
                  Find(library, "nvmlDeviceGetTemperature", &made.temperature) && made.init() == 0;
    return made;
  }();
  return nvml;
}

}  // namespace

std::vector<GpuState> ReadGpuStates() {
  const Nvml& nvml = Library();
  std::vector<GpuState> states;
  unsigned int count = 0;
  if (!nvml.usable || nvml.count(&count) != 0) return states;
  for (unsigned int i = 0; i < count; ++i) {
    GpuState state;
    Handle handle = nullptr;
    Memory memory = {};
    Utilization utilization = {};
    unsigned int celsius = 0;
    if (nvml.handle(i, &handle) == 0) {
      if (nvml.memory(handle, &memory) == 0) {
        state.memory_used_bytes = static_cast<int64_t>(memory.used);
      }
      if (nvml.utilization(handle, &utilization) == 0) {
        state.utilization_ratio = utilization.gpu / 100.0;
      }
      if (nvml.temperature(handle, kTemperatureGpu, &celsius) == 0) {
        state.temperature_celsius = celsius;
      }
    }
    states.push_back(state);
  }
  return states;
}

}  // namespace quantd
