// What a machine says of itself while it is measured: a GPU's energy and clocks through NVML, a
// CPU's clock through the kernel. What it does not say is left out.
#pragma once

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/string_view.h"
#include "workers/engine/benchmark/nvml.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {

// The slowest and the fastest clock that was seen, in MHz: a chip that was throttled shows.
class ClockRange {
 public:
  void Add(double mhz);
  bool empty() const { return high_ == 0; }
  // {"minMhz", "maxMhz"}.
  nlohmann::json Json() const { return {{"minMhz", low_}, {"maxMhz", high_}}; }

 private:
  double low_ = std::numeric_limits<double>::infinity();
  double high_ = 0;
};

// The largest "cpu MHz" of /proc/cpuinfo's text; 0: there is none.
double FastestCpuMhz(absl::string_view cpuinfo);

class DeviceMeter {
 public:
  explicit DeviceMeter(at::Device device);
  // Since the driver was loaded; of GPUs only.
  std::optional<double> EnergyJoules() const;
  void ReadClocks(ClockRange* range) const;

 private:
  std::optional<Nvml> nvml_;
};

}  // namespace quantd::engine
