// The binomial tail is summed from its logarithms, so that thousands of answers do not overflow.
#include "workers/engine/report/paired.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace quantd::engine {
namespace {

constexpr double kTail = 0.025;
constexpr uint64_t kSeed = 20240917;

double At(const std::vector<double>& sorted, double fraction) {
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (place - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

// Means of blocks of equal size, at most kBootstrapSamplesMax of them.
std::vector<double> Blocks(absl::Span<const double> values) {
  const size_t size = (values.size() + kBootstrapSamplesMax - 1) / kBootstrapSamplesMax;
  std::vector<double> means;
  for (size_t first = 0; first + size <= values.size(); first += size) {
    double sum = 0;
    for (size_t i = first; i < first + size; ++i) sum += values[i];
    means.push_back(sum / static_cast<double>(size));
  }
  return means;
}

}  // namespace

double McNemarProbability(int64_t better, int64_t worse) {
  const int64_t changed = better + worse;
  if (changed == 0) return 1;
  const double n = static_cast<double>(changed);
  double tail = 0;
  for (int64_t k = 0; k <= std::min(better, worse); ++k) {
    const double i = static_cast<double>(k);
    tail += std::exp(std::lgamma(n + 1) - std::lgamma(i + 1) - std::lgamma(n - i + 1) -
                     n * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

Interval BootstrapMean(absl::Span<const double> differences) {
  if (differences.empty()) return {};
  const std::vector<double> values = Blocks(differences);
  std::mt19937_64 random(kSeed);
  std::vector<double> means(kBootstrapDraws);
  for (double& mean : means) {
    for (size_t i = 0; i < values.size(); ++i) mean += values[random() % values.size()];
    mean /= static_cast<double>(values.size());
  }
  std::sort(means.begin(), means.end());
  return {At(means, kTail), At(means, 1 - kTail)};
}

}  // namespace quantd::engine
