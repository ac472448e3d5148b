// The formulas of log_prob_rows.h as they stand, in float64.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/log_prob_rows.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {

void LogProbRowsReference(const LogProbRows& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const uint16_t* logits = args.logits + row * args.columns;
    const auto value = [&](int64_t i) {
      return static_cast<double>(FromSixteen(logits[i], args.bfloat16));
    };
    const int64_t target = args.targets[row];
    double largest = -std::numeric_limits<double>::infinity();
    bool best = true;
    for (int64_t i = 0; i < args.columns; ++i) {
      largest = std::max(largest, value(i));
      if (i != target && (value(i) > value(target) || (i < target && value(i) == value(target)))) {
        best = false;
      }
    }
    double sum = 0;
    for (int64_t i = 0; i < args.columns; ++i) sum += std::exp(value(i) - largest);
    const double log_prob = value(target) - largest - std::log(sum);
    args.log_probs[row] = static_cast<float>(log_prob);
    args.greedy[row] = best && !std::isnan(log_prob) ? 1 : 0;
  }
}

}  // namespace quantd::kernels
