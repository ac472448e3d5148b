// What can be said about the difference of two variants that answered the same samples: McNemar's
// exact test for right and wrong (McNemar 1947), the percentile bootstrap for everything else
// (Efron 1979). Both are deterministic.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace quantd::engine {

struct Interval {
  double low = 0;
  double high = 0;
};

// Two-sided probability of a split at least as uneven as `better` against `worse` changed answers,
// were both equally likely; 1 when nothing changed.
double McNemarProbability(int64_t better, int64_t worse);

// 95 % of the means of `differences` drawn again with replacement; the same draws at every call.
Interval BootstrapMean(absl::Span<const double> differences);

// Samples above this are drawn in blocks of equal size, which is as good and bounded in time.
constexpr size_t kBootstrapSamplesMax = 2000;
constexpr int kBootstrapDraws = 2000;

}  // namespace quantd::engine
