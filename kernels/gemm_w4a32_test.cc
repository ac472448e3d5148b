// Products with rows of 4-bit codes against the reference, within the bound of the header.
#include "kernels/gemm_w4a32.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/half.h"
#include "kernels/table.h"

namespace quantd::kernels {
namespace {

struct Case {
  std::vector<uint8_t> codes, packed, zeros;
  std::vector<float> scales, bias, input;
  GemmW4A32 args;
};

Case Make(int64_t m, int64_t rows, int64_t columns, int64_t group, bool zeros, bool bias) {
  testing::Test::RecordProperty("seed", 31);
  std::mt19937 random(31);
  std::normal_distribution<float> normal;
  Case c;
  for (int64_t i = 0; i < rows * columns; ++i) c.codes.push_back(random() % 16);
  for (int64_t i = 0; i < rows * columns / group; ++i) {
    // Zero, subnormal in binary16, ordinary.
    const float size = i % 7 == 3 ? 0.0f : i % 5 == 2 ? 1e-6f : 0.01f;
    c.scales.push_back(HalfToFloat(FloatToHalf(std::abs(normal(random)) * size)));
    c.zeros.push_back(random() % 16);
  }
  for (int64_t i = 0; i < m * columns; ++i) {
    c.input.push_back(normal(random) * (i % 89 == 5 ? 100.0f : 1.0f));
  }
  for (int64_t i = 0; i < rows; ++i) c.bias.push_back(normal(random));
  c.packed.resize(c.codes.size() / 2);
  PackW4Rows(c.codes.data(), rows * columns, c.packed.data());
  c.args = {.m = m,
            .weight = {.rows = rows,
                       .columns = columns,
                       .group_columns = group,
                       .codes = c.packed.data(),
                       .scales = c.scales.data(),
                       .zeros = zeros ? c.zeros.data() : nullptr},
            .input = c.input.data(),
            .bias = bias ? c.bias.data() : nullptr};
  return c;
}

TEST(GemmW4A32Test, ReferenceByHand) {
  std::vector<uint8_t> codes(64, 8), packed(32), zeros = {8, 3};
  codes[0] = 15;
  codes[17] = 1;
  codes[63] = 0;
  PackW4Rows(codes.data(), 64, packed.data());
  EXPECT_EQ(packed[0], 0x8f);   // Codes 0 and 8,
  EXPECT_EQ(packed[5], 0x81);   // 17 and 25,
  EXPECT_EQ(packed[31], 0x08);  // 55 and 63.
  const std::vector<float> scales = {0.5f, 2.0f}, bias = {10};
  std::vector<float> input(64, 0), output(1);
  input[0] = 2;
  input[17] = 1;
  input[63] = 3;
  GemmW4A32Reference({.m = 1,
                      .weight = {.rows = 1,
                                 .columns = 64,
                                 .group_columns = 32,
                                 .codes = packed.data(),
                                 .scales = scales.data(),
                                 .zeros = zeros.data()},
                      .input = input.data(),
                      .bias = bias.data(),
                      .output = output.data()});
  // (15 - 8) / 2 * 2 + (1 - 8) / 2 * 1 + (0 - 3) * 2 * 3 + 10
  EXPECT_EQ(output[0], 7 - 3.5f - 18 + 10);
}

TEST(GemmW4A32Test, CpuStaysWithinTheBound) {
  for (const int64_t m : {1, 2, 15}) {
    for (const auto& [rows, columns, group] : {std::tuple<int64_t, int64_t, int64_t>{1, 64, 32},
                                               {17, 192, 64},
                                               {33, 256, 128},
                                               {2, 128, 32},
                                               {5, 2048, 64},
                                               {3, 1024, 1024}}) {
      for (const bool extras : {false, true}) {
        Case c = Make(m, rows, columns, group, extras, extras);
        std::vector<float> expected(m * rows), got(m * rows), weight(rows * columns);
        c.args.output = expected.data();
        GemmW4A32Reference(c.args);
        c.args.output = got.data();
        FindBackend("cpu")->gemm_w4a32(c.args);
        UnpackW4A32Reference({.packed = c.args.weight, .weight = weight.data()});
        const double steps = static_cast<double>(group) / 32 + static_cast<double>(columns / group);
        for (int64_t i = 0; i < m * rows; ++i) {
          double sizes = 0;
          for (int64_t k = 0; k < columns; ++k) {
            sizes += std::abs(static_cast<double>(c.input[i / rows * columns + k]) *
                              weight[i % rows * columns + k]);
          }
          const double bound = (steps + 6) * 0x1p-23 * sizes + 0x1p-23 * std::abs(expected[i]);
          ASSERT_NEAR(got[i], expected[i], bound) << m << " x " << rows << " x " << columns;
        }
      }
    }
  }
}

TEST(GemmW4A32Test, NoRowDependsOnTheOthers) {
  Case c = Make(6, 40, 512, 128, true, true);
  std::vector<float> together(6 * 40), alone(40);
  c.args.output = together.data();
  FindBackend("cpu")->gemm_w4a32(c.args);
  for (int64_t m = 0; m < 6; ++m) {
    GemmW4A32 one = c.args;
    one.m = 1;
    one.input += m * 512;
    one.output = alone.data();
    FindBackend("cpu")->gemm_w4a32(one);
    EXPECT_EQ(alone, std::vector<float>(together.begin() + m * 40, together.begin() + m * 40 + 40));
  }
}

TEST(GemmW4A32Test, UnpacksTheReferencesBits) {
  for (const bool zeros : {false, true}) {
    const Case c = Make(1, 9, 192, 32, zeros, false);
    std::vector<float> expected(9 * 192), got(9 * 192);
    UnpackW4A32Reference({.packed = c.args.weight, .weight = expected.data()});
    FindBackend("cpu")->unpack_w4a32({.packed = c.args.weight, .weight = got.data()});
    EXPECT_EQ(got, expected);
  }
}

TEST(GemmW4A32Test, NanAndInfinityReachTheirRowsOnly) {
  Case c = Make(2, 4, 64, 32, false, false);
  c.input[3] = std::nanf("");
  std::vector<float> output(8);
  c.args.output = output.data();
  FindBackend("cpu")->gemm_w4a32(c.args);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(std::isnan(output[i]), i < 4) << i;
}

}  // namespace
}  // namespace quantd::kernels
