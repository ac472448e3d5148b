// The cores of a CPU differ: the fastest is the one that works.
#include "workers/engine/benchmark/clocks.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/file.h"

namespace quantd::engine {
namespace {

constexpr int64_t kCpuInfoBytesMax = int64_t{4} << 20;

}  // namespace

void ClockRange::Add(double mhz) {
  if (mhz <= 0) return;
  low_ = std::min(low_, mhz);
  high_ = std::max(high_, mhz);
}

double FastestCpuMhz(absl::string_view cpuinfo) {
  double fastest = 0;
  for (const absl::string_view line : absl::StrSplit(cpuinfo, '\n')) {
    if (!absl::StartsWith(line, "cpu MHz")) continue;
    double mhz = 0;
    const size_t colon = line.find(':');
    if (colon != absl::string_view::npos && absl::SimpleAtod(line.substr(colon + 1), &mhz)) {
      fastest = std::max(fastest, mhz);
    }
  }
  return fastest;
}

DeviceMeter::DeviceMeter(at::Device device) {
  if (device.is_cuda()) nvml_.emplace(device.has_index() ? device.index() : 0);
}

std::optional<double> DeviceMeter::EnergyJoules() const {
  return nvml_ ? nvml_->EnergyJoules() : std::nullopt;
}

void DeviceMeter::ReadClocks(ClockRange* range) const {
  if (nvml_) return range->Add(nvml_->SmMhz());
  const absl::StatusOr<std::string> text = ReadFile("/proc/cpuinfo", kCpuInfoBytesMax);
  if (text.ok()) range->Add(FastestCpuMhz(*text));
}

}  // namespace quantd::engine
