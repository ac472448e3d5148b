// Rotations by the definition within the bound of the header, and the variants bit for bit.
#include "kernels/hadamard_rows.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/int8_code.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

struct Sizes {
  int64_t columns, power, order;
};

struct Case {
  HadamardRows args;  // Points into the vectors below.
  std::vector<float> matrix;
  std::vector<uint16_t> input;
};

// The formula holds for any signs; a row of zeros, one outlier, subnormals.
void Fill(const Sizes& sizes, int64_t rows, bool bfloat16, Case* c) {
  testing::Test::RecordProperty("seed", 17);
  std::mt19937 random(17);
  std::normal_distribution<float> normal;
  c->matrix.resize(sizes.order > 1 ? sizes.order * sizes.order : 0);
  for (float& sign : c->matrix) sign = random() % 2 == 0 ? 1 : -1;
  c->input.resize(rows * sizes.columns);
  for (size_t i = 0; i < c->input.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / sizes.columns;
    const float size = row == 1 ? 0.0f : row == 2 ? 1e-7f : i % 211 == 5 ? 300.0f : 1.0f;
    c->input[i] = ToSixteen(normal(random) * size, bfloat16);
  }
  c->args = {.rows = rows,
             .columns = sizes.columns,
             .power = sizes.power,
             .order = sizes.order,
             .matrix = c->matrix.empty() ? nullptr : c->matrix.data(),
             .bfloat16 = bfloat16,
             .input = c->input.data()};
}

struct Results {
  explicit Results(const HadamardRows& args)
      : output(args.rows * args.columns), codes(output.size()), scales(args.rows) {}
  std::vector<uint16_t> output;
  std::vector<int8_t> codes;
  std::vector<float> scales;
};

Results Rotate(const char* (*hadamard)(const HadamardRows&), HadamardRows args) {
  Results results(args);
  args.output = results.output.data();
  args.codes = results.codes.data();
  args.scales = results.scales.data();
  const char* error = hadamard(args);
  EXPECT_EQ(error, nullptr) << error;
  return results;
}

TEST(HadamardRowsTest, ReferenceByHand) {
  std::vector<uint16_t> input;
  for (const float x : {1.0f, 2.0f, 3.0f, 4.0f, 0.0f, 0.0f, 0.0f, 5.0f}) {
    input.push_back(FloatToHalf(x));
  }
  // Two pieces of 4: (1 2 3 4) and (0 0 0 5), halved.
  const Results results =
      Rotate(HadamardRowsReference, {.rows = 1, .columns = 8, .power = 4, .input = input.data()});
  const float expected[8] = {5, -1, -2, 0, 2.5f, -2.5f, -2.5f, 2.5f};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(HalfToFloat(results.output[i]), expected[i]) << i;
  EXPECT_EQ(results.scales[0], 5 / 127.0f);
  EXPECT_EQ(results.codes[0], 127);
  EXPECT_EQ(results.codes[2], -51);
  // y[b, j] = sum over a of x[a, j] matrix[a, b]: the first column of the matrix, not its first
  // row.
  const std::vector<float> matrix = {1, 1, 1, 1, -1, 1, -1, 1, 1, 1, -1, -1, 1, -1, -1, 1};
  std::vector<uint16_t> columns(16);
  for (int a = 0; a < 4; ++a) columns[a * 4] = FloatToHalf(static_cast<float>(a + 1));
  const HadamardRows args = {.rows = 1,
                             .columns = 16,
                             .power = 4,
                             .order = 4,
                             .matrix = matrix.data(),
                             .input = columns.data()};
  for (const auto hadamard : {HadamardRowsReference, HadamardRowsCpu}) {
    EXPECT_EQ(HalfToFloat(Rotate(hadamard, args).output[0]), (1 - 2 + 3 + 4) / 4.0f);
  }
}

TEST(HadamardRowsTest, CpuStaysWithinTheBound) {
  for (const Sizes& sizes : {Sizes{8, 1, 1}, Sizes{8, 8, 1}, Sizes{48, 16, 1}, Sizes{80, 4, 20},
                             Sizes{48, 4, 12}, Sizes{1024, 1024, 1}, Sizes{1536, 128, 12}}) {
    for (const bool bfloat16 : {false, true}) {
      Case c;
      Fill(sizes, 4, bfloat16, &c);
      const Results exact = Rotate(HadamardRowsReference, c.args),
                    got = Rotate(HadamardRowsCpu, c.args);
      const double n = static_cast<double>(sizes.power * sizes.order);
      const double steps = std::log2(sizes.power) + static_cast<double>(sizes.order) + 2;
      for (size_t i = 0; i < exact.output.size(); ++i) {
        double sum = 0;
        for (int64_t k = 0; k < static_cast<int64_t>(n); ++k) {
          sum += std::abs(FromSixteen(
              c.input[i / static_cast<size_t>(n) * static_cast<size_t>(n) + k], bfloat16));
        }
        const double error = steps * 0x1p-24 / std::sqrt(n) * sum;
        const double y = FromSixteen(exact.output[i], bfloat16);
        // Both are rounded to 16 bits.
        const double rounding = 2 * std::max(std::abs(y) * UnitRoundoff(bfloat16), 0x1p-25);
        ASSERT_NEAR(FromSixteen(got.output[i], bfloat16), y, error * 1.01 + rounding)
            << sizes.columns << " " << sizes.power << " " << sizes.order << " at " << i;
        ASSERT_NEAR(got.codes[i], exact.codes[i], 1);
      }
      for (size_t row = 0; row < exact.scales.size(); ++row) {
        ASSERT_NEAR(got.scales[row], exact.scales[row], 1e-4 * exact.scales[row]);
      }
      // A row of zeros.
      EXPECT_EQ(got.scales[1], 1);
    }
  }
}

TEST(HadamardRowsTest, RefusesOtherSizes) {
  const std::vector<uint16_t> input(48);
  std::vector<uint16_t> output(48);
  const std::vector<float> matrix(36, 1);
  const HadamardRows good = {
      .rows = 1, .columns = 48, .power = 16, .input = input.data(), .output = output.data()};
  for (const auto hadamard : {HadamardRowsReference, HadamardRowsCpu}) {
    EXPECT_EQ(hadamard(good), nullptr);
    HadamardRows bad = good;
    bad.power = 12;
    EXPECT_NE(hadamard(bad), nullptr);
    bad.power = 32;
    EXPECT_NE(hadamard(bad), nullptr);
    bad = good;
    bad.columns = 44;
    EXPECT_NE(hadamard(bad), nullptr);
    bad = good;
    bad.power = 4;
    bad.order = 12;
    EXPECT_NE(hadamard(bad), nullptr);
    bad.matrix = matrix.data();
    bad.order = 6;
    EXPECT_NE(hadamard(bad), nullptr);
    bad.order = 12;
    bad.power = 2;
    EXPECT_NE(hadamard(bad), nullptr);
  }
}

TEST(HadamardRowsTest, CudaAgreesBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  for (const Sizes& sizes :
       {Sizes{8, 1, 1}, Sizes{8, 4, 1}, Sizes{48, 16, 1}, Sizes{136, 8, 1}, Sizes{264, 8, 1},
        Sizes{512, 128, 1}, Sizes{512, 512, 1}, Sizes{4096, 4096, 1}, Sizes{8192, 8192, 1},
        Sizes{12288, 4096, 1}, Sizes{16384, 16384, 1}, Sizes{32768, 32768, 1}, Sizes{80, 4, 20},
        Sizes{96, 4, 12}, Sizes{1536, 128, 12}, Sizes{14336, 512, 28}, Sizes{28672, 1024, 28},
        Sizes{29568, 32, 924}, Sizes{32768, 256, 64}}) {
    for (const bool bfloat16 : {false, true}) {
      Case c;
      Fill(sizes, 5, bfloat16, &c);
      if (sizes.columns > 1000) {
        c.input[3 * sizes.columns + 700] =
            ToSixteen(std::numeric_limits<float>::infinity(), bfloat16);
      }
      const Results expected = Rotate(HadamardRowsCpu, c.args);
      const OnDevice<float> matrix(c.matrix);
      const OnDevice<uint16_t> input(c.input), output(expected.output.size());
      const OnDevice<int8_t> codes(expected.codes.size());
      const OnDevice<float> scales(expected.scales.size());
      HadamardRows args = c.args;
      args.matrix = c.matrix.empty() ? nullptr : matrix.data();
      args.input = input.data();
      args.output = output.data();
      args.codes = codes.data();
      args.scales = scales.data();
      const char* error = FindBackend("cuda")->hadamard_rows(args);
      ASSERT_EQ(error, nullptr) << error;
      ExpectNoDeviceError();
      const std::vector<uint16_t> got = output.Read();
      const std::vector<float> got_scales = scales.Read();
      for (size_t i = 0; i < got.size(); ++i) {
        const float want = FromSixteen(expected.output[i], bfloat16);
        if (std::isnan(want)) {
          ASSERT_TRUE(std::isnan(FromSixteen(got[i], bfloat16))) << sizes.columns << " at " << i;
        } else {
          ASSERT_EQ(got[i], expected.output[i])
              << sizes.columns << " " << sizes.power << " " << sizes.order << " at " << i;
        }
      }
      EXPECT_EQ(codes.Read(), expected.codes) << sizes.columns;
      for (size_t row = 0; row < got_scales.size(); ++row) {
        EXPECT_TRUE(got_scales[row] == expected.scales[row] ||
                    (std::isnan(got_scales[row]) && std::isnan(expected.scales[row])))
            << sizes.columns << " row " << row;
      }
      // One result alone, in place.
      args.output = const_cast<uint16_t*>(args.input);
      args.codes = nullptr;
      args.scales = nullptr;
      ASSERT_EQ(FindBackend("cuda")->hadamard_rows(args), nullptr);
      ExpectNoDeviceError();
      EXPECT_EQ(input.Read(), got) << sizes.columns;
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
