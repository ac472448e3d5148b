// Plain two-pass sums: the numbers of values are small, and both passes are exact enough.
#include "workers/engine/job/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quantd::engine {

MeanError MeanAndError(absl::Span<const double> values) {
  MeanError result;
  const auto count = static_cast<double>(values.size());
  if (values.empty()) return {std::numeric_limits<double>::quiet_NaN(), 0};
  for (double value : values) result.mean += value;
  result.mean /= count;
  if (values.size() < 2) return result;
  double squares = 0;
  for (double value : values) squares += (value - result.mean) * (value - result.mean);
  result.standard_error = std::sqrt(squares / (count - 1)) / std::sqrt(count);
  return result;
}

double Quantile(std::vector<double> values, double fraction) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(values.begin(), values.end());
  const double place = fraction * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (place - static_cast<double>(low)) * (values[high] - values[low]);
}

}  // namespace quantd::engine
