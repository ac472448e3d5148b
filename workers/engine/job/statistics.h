// The few statistics that evaluation and reports state, in double precision.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace quantd::engine {

struct MeanError {
  double mean = 0;
  double standard_error = 0;  // sqrt(sum (x - mean)^2 / (n - 1)) / sqrt(n); 0 for n < 2.
};
MeanError MeanAndError(absl::Span<const double> values);

// By linear interpolation between order statistics (numpy's default); `fraction` in [0, 1]. NaN for
// no values.
double Quantile(std::vector<double> values, double fraction);

}  // namespace quantd::engine
