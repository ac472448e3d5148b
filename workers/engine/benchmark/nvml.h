// What NVIDIA's management library says of a GPU, opened with dlopen where it is there: energy and
// clocks for a measurement's record.
#pragma once

#include <optional>

namespace quantd::engine {

class Nvml {
 public:
  // Of the GPU of this index; where there is none, or no library, everything is nothing.
  explicit Nvml(int index);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // Joules since the driver was loaded.
  std::optional<double> EnergyJoules() const;
  // Of the multiprocessors, now; 0: not known.
  double SmMhz() const;

 private:
  void* library_ = nullptr;
  void* device_ = nullptr;
};

}  // namespace quantd::engine
