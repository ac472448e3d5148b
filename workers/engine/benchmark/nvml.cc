// The library's functions by name, with the types of its published C interface.
#include "workers/engine/benchmark/nvml.h"

#include <dlfcn.h>

namespace quantd::engine {
namespace {

constexpr int kSuccess = 0;
constexpr int kSmClock = 1;
constexpr double kMillijoules = 1000;

template <typename Function>
Function* Find(void* library, const char* name) {
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace

Nvml::Nvml(int index) {
  library_ = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  auto* init = Find<int()>(library_, "nvmlInit_v2");
  auto* handle = Find<int(unsigned, void**)>(library_, "nvmlDeviceGetHandleByIndex_v2");
  if (init == nullptr || handle == nullptr || init() != kSuccess) return;
  if (handle(static_cast<unsigned>(index), &device_) != kSuccess) device_ = nullptr;
}

Nvml::~Nvml() {
  if (auto* shutdown = Find<int()>(library_, "nvmlShutdown")) shutdown();
  if (library_ != nullptr) dlclose(library_);
}

std::optional<double> Nvml::EnergyJoules() const {
  auto* energy =
      Find<int(void*, unsigned long long*)>(library_, "nvmlDeviceGetTotalEnergyConsumption");
  unsigned long long millijoules = 0;
  if (device_ == nullptr || energy == nullptr || energy(device_, &millijoules) != kSuccess) {
    return std::nullopt;
  }
  return static_cast<double>(millijoules) / kMillijoules;
}

double Nvml::SmMhz() const {
  auto* clock = Find<int(void*, int, unsigned*)>(library_, "nvmlDeviceGetClockInfo");
  unsigned mhz = 0;
  if (device_ == nullptr || clock == nullptr || clock(device_, kSmClock, &mhz) != kSuccess)
    return 0;
  return mhz;
}

}  // namespace quantd::engine
