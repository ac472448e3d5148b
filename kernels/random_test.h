// Inputs for the kernels' tests: a printed seed gives the same matrix everywhere.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

namespace quantd::kernels {

// Normal values with a few outliers, a row of zeros, a non-negative and a non-positive row.
inline std::vector<float> RandomWeights(int64_t rows, int64_t columns, uint32_t seed) {
  testing::Test::RecordProperty("seed", static_cast<int>(seed));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> weights(rows * columns);
  for (float& weight : weights) {
    weight = normal(random);
    if (random() % 97 == 0) weight *= 20;
  }
  for (int64_t column = 0; column < columns; ++column) {
    if (rows > 1) weights[column] = 0;
    if (rows > 2) weights[columns + column] = std::abs(weights[columns + column]);
    if (rows > 3) weights[2 * columns + column] = -std::abs(weights[2 * columns + column]);
  }
  return weights;
}

}  // namespace quantd::kernels
