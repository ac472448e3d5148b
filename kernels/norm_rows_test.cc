// The device's norms against the formula within the bound of the header and two roundings.
#include "kernels/norm_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

struct Case {
  std::vector<uint16_t> input, weight;
};

// A row of zeros, one outlier, subnormals.
Case Make(int64_t rows, int64_t columns, bool bfloat16) {
  testing::Test::RecordProperty("seed", 23);
  std::mt19937 random(23);
  std::normal_distribution<float> normal;
  Case c = {std::vector<uint16_t>(rows * columns), std::vector<uint16_t>(columns)};
  for (int64_t i = 0; i < rows * columns; ++i) {
    const int64_t row = i / columns;
    const float size = row == 1 ? 0.0f : row == 2 ? 1e-6f : i % 97 == 3 ? 50.0f : 1.0f;
    c.input[i] = ToSixteen(normal(random) * size, bfloat16);
  }
  for (uint16_t& weight : c.weight) weight = ToSixteen(1 + normal(random) * 0.2f, bfloat16);
  return c;
}

NormRows ArgsOf(const Case& c, int64_t rows, bool bfloat16, bool plus_one) {
  return {.rows = rows,
          .columns = static_cast<int64_t>(c.weight.size()),
          .bfloat16 = bfloat16,
          .plus_one = plus_one,
          .eps = 1e-5f,
          .input = c.input.data(),
          .weight = c.weight.data()};
}

TEST(NormRowsTest, ReferenceByHand) {
  Case c;
  for (const float x : {3.0f, -4.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 5.0f}) {
    c.input.push_back(FloatToHalf(x));
    c.weight.push_back(FloatToHalf(2));
  }
  std::vector<uint16_t> output(8);
  NormRows args = ArgsOf(c, 1, false, false);
  args.output = output.data();
  args.eps = 0;
  NormRowsReference(args);  // The root of 50 / 8 is 2.5.
  EXPECT_EQ(HalfToFloat(output[1]), 2 * HalfToFloat(FloatToHalf(-1.6f)));
  EXPECT_EQ(HalfToFloat(output[7]), 4);
  args.plus_one = true;
  NormRowsReference(args);
  EXPECT_EQ(HalfToFloat(output[7]), 6);
}

TEST(NormRowsTest, CudaStaysWithinTheBound) {
  QD_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 9;
  for (const int64_t columns : {8, 64, 128, 1024, 1032, 2048, 5120, 16384}) {
    for (const bool bfloat16 : {false, true}) {
      for (const bool plus_one : {false, true}) {
        const Case c = Make(kRows, columns, bfloat16);
        std::vector<uint16_t> expected(c.input.size());
        NormRows args = ArgsOf(c, kRows, bfloat16, plus_one);
        args.output = expected.data();
        NormRowsReference(args);
        const OnDevice<uint16_t> input(c.input), weight(c.weight), output(c.input.size());
        args.input = input.data();
        args.weight = weight.data();
        args.output = output.data();
        FindBackend("cuda")->norm_rows(args);
        ExpectNoDeviceError();
        const std::vector<uint16_t> got = output.Read();
        // y is off by so much, and each side rounds twice at most.
        const double off = (static_cast<double>(columns) / 64 + 24) * 0x1p-24;
        const double relative = off + 4 * UnitRoundoff(bfloat16) * (1 + off) * 1.01;
        for (size_t i = 0; i < got.size(); ++i) {
          const double want = FromSixteen(expected[i], bfloat16);
          // Below the normal numbers a rounding is 2^-25 at most (binary16), of y times the weight.
          ASSERT_NEAR(FromSixteen(got[i], bfloat16), want, std::abs(want) * relative + 0x1p-22)
              << columns << " at " << i;
        }
        // In place.
        args.output = input.data();
        FindBackend("cuda")->norm_rows(args);
        ExpectNoDeviceError();
        EXPECT_EQ(input.Read(), got);
      }
    }
  }
}

// As int8 a row is what quantize_rows makes of the 16-bit output, found in one pass or two.
void ExpectInt8OfTheOutput(NormRows args, const Backend& backend) {
  const size_t size = static_cast<size_t>(args.rows * args.columns);
  const OnDevice<uint16_t> output(size);
  const OnDevice<int8_t> codes(size), expected_codes(size);
  const OnDevice<float> scales(args.rows), expected_scales(args.rows);
  args.output = output.data();
  backend.norm_rows(args);
  QuantizeRows quantize = {.rows = args.rows,
                           .columns = args.columns,
                           .bfloat16 = args.bfloat16,
                           .input = output.data(),
                           .codes = expected_codes.data(),
                           .scales = expected_scales.data(),
                           .scale = args.scale};
  backend.quantize_rows(quantize);
  args.output = nullptr;
  args.codes = codes.data();
  args.scales = scales.data();
  backend.norm_rows(args);
  ExpectNoDeviceError();
  EXPECT_EQ(codes.Read(), expected_codes.Read()) << args.columns;
  EXPECT_EQ(scales.Read(), expected_scales.Read()) << args.columns;
}

TEST(NormRowsTest, CudaInt8IsThatOfTheOutput) {
  QD_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 9;
  // A warp's rows, blocks of both sizes, and rows that no block holds whole.
  for (const int64_t columns : {8, 1024, 1032, 4096, 4104, 16384, 20480}) {
    for (const bool bfloat16 : {false, true}) {
      for (const float scale : {0.0f, 0.03f}) {
        const Case c = Make(kRows, columns, bfloat16);
        const OnDevice<uint16_t> input(c.input), weight(c.weight);
        NormRows args = ArgsOf(c, kRows, bfloat16, /*plus_one=*/columns == 1032);
        args.input = input.data();
        args.weight = weight.data();
        args.scale = scale;
        ExpectInt8OfTheOutput(args, *FindBackend("cuda"));
      }
    }
  }
}

TEST(NormRowsTest, ReferenceInt8ByHand) {
  // The root of the mean square is 2, the largest output 2.
  std::vector<uint16_t> input, weight(8, FloatToHalf(1));
  for (const float x : {4.0f, -2.0f, 2.0f, 2.0f, 2.0f, 0.0f, 0.0f, 0.0f}) {
    input.push_back(FloatToHalf(x));
  }
  std::vector<int8_t> codes(8);
  float scale = 0;
  NormRows args = {.rows = 1,
                   .columns = 8,
                   .input = input.data(),
                   .weight = weight.data(),
                   .codes = codes.data(),
                   .scales = &scale};
  NormRowsReference(args);
  EXPECT_EQ(codes, (std::vector<int8_t>{127, -64, 64, 64, 64, 0, 0, 0}));
  EXPECT_EQ(scale, 2.0f / 127);
  args.scale = 0.01f;  // Cut at both ends.
  NormRowsReference(args);
  EXPECT_EQ(codes, (std::vector<int8_t>{127, -100, 100, 100, 100, 0, 0, 0}));
  EXPECT_EQ(scale, 0.01f);
}

}  // namespace
}  // namespace quantd::kernels
