// The device's gates against the formula within the bound of the header and two roundings.
#include "kernels/gate_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

TEST(GateRowsTest, ReferenceByHand) {
  const auto half = FloatToHalf;
  // Rows of two with a gap of one behind each.
  const std::vector<uint16_t> gate = {half(-3), half(2), half(9), half(0), half(4), half(9)};
  const std::vector<uint16_t> up = {half(5), half(-7), half(9), half(1), half(0.5f), half(9)};
  std::vector<uint16_t> output(4);
  GateRowsReference({.rows = 2,
                     .columns = 2,
                     .stride = 3,
                     .activation = Activation::kRelu,
                     .gate = gate.data(),
                     .up = up.data(),
                     .output = output.data()});
  EXPECT_EQ(output, (std::vector<uint16_t>{half(0), half(-14), half(0), half(2)}));
}

TEST(GateRowsTest, ActivationsStayWithinTheirBound) {
  for (double x = -20; x <= 20; x += 0.0078125) {
    const double tanh_of = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
    const auto near = [&](Activation activation, double exact) {
      EXPECT_NEAR(Activate(activation, static_cast<float>(x)), exact, std::abs(x) * 0x1p-21) << x;
    };
    near(Activation::kRelu, std::max(x, 0.0));
    near(Activation::kSilu, x / (1 + std::exp(-x)));
    near(Activation::kGelu, 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))));
    near(Activation::kGeluTanh, 0.5 * x * (1 + tanh_of));
  }
}

TEST(GateRowsTest, CudaStaysWithinTheBound) {
  QD_SKIP_WITHOUT_GPU();
  RecordProperty("seed", 29);
  std::mt19937 random(29);
  std::normal_distribution<float> normal;
  for (const int64_t columns : {8, 264, 8192}) {
    for (const int64_t gap : {0, 24}) {
      for (const bool bfloat16 : {false, true}) {
        for (const Activation activation :
             {Activation::kRelu, Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
          constexpr int64_t kRows = 5;
          const int64_t stride = columns + gap;
          std::vector<uint16_t> gate, up, expected(kRows * columns);
          for (int64_t i = 0; i < kRows * stride; ++i) {
            // One outlier, zeros, subnormals.
            const float size = i % 101 == 7 ? 300.0f : i % 11 == 3 ? 0.0f : i % 13 == 2 ? 1e-6f : 2;
            gate.push_back(ToSixteen(normal(random) * size, bfloat16));
            up.push_back(ToSixteen(normal(random), bfloat16));
          }
          GateRows args = {.rows = kRows,
                           .columns = columns,
                           .stride = stride,
                           .bfloat16 = bfloat16,
                           .activation = activation,
                           .gate = gate.data(),
                           .up = up.data(),
                           .output = expected.data()};
          GateRowsReference(args);
          const OnDevice<uint16_t> gates(gate), ups(up), output(expected.size());
          args.gate = gates.data();
          args.up = ups.data();
          args.output = output.data();
          FindBackend("cuda")->gate_rows(args);
          ExpectNoDeviceError();
          const std::vector<uint16_t> got = output.Read();
          for (size_t i = 0; i < got.size(); ++i) {
            const auto at = static_cast<size_t>(i / columns * stride + i % columns);
            const double x = FromSixteen(gate[at], bfloat16), y = FromSixteen(up[at], bfloat16);
            const double want = FromSixteen(expected[i], bfloat16);
            // Both sides' f is off by so much, and each rounds twice.
            const double bound = 2 * std::abs(x * y) * 0x1p-21 +
                                 std::abs(want) * 4 * UnitRoundoff(bfloat16) * 1.01 +
                                 (std::abs(y) + 1) * 0x1p-24;
            ASSERT_NEAR(FromSixteen(got[i], bfloat16), want, bound) << columns << " at " << i;
          }
        }
      }
    }
  }
}

// As int8 a row is what quantize_rows makes of the 16-bit output, found in one pass or two.
TEST(GateRowsTest, CudaInt8IsThatOfTheOutput) {
  QD_SKIP_WITHOUT_GPU();
  constexpr int64_t kRows = 5, kGap = 24;
  RecordProperty("seed", 31);
  std::mt19937 random(31);
  std::normal_distribution<float> normal;
  const Backend& cuda = *FindBackend("cuda");
  for (const int64_t columns : {8, 4096, 4104, 16384, 18432}) {
    for (const bool bfloat16 : {false, true}) {
      for (const float scale : {0.0f, 0.02f}) {
        std::vector<uint16_t> numbers;
        for (int64_t i = 0; i < 2 * kRows * (columns + kGap); ++i) {
          numbers.push_back(ToSixteen(normal(random) * (i % 101 == 7 ? 30 : 2), bfloat16));
        }
        const OnDevice<uint16_t> there(numbers), output(kRows * columns);
        const OnDevice<int8_t> codes(kRows * columns), expected_codes(kRows * columns);
        const OnDevice<float> scales(kRows), expected_scales(kRows);
        GateRows args = {.rows = kRows,
                         .columns = columns,
                         .stride = columns + kGap,
                         .bfloat16 = bfloat16,
                         .activation = Activation::kSilu,
                         .gate = there.data(),
                         .up = there.data() + kRows * (columns + kGap),
                         .output = output.data(),
                         .scale = scale};
        cuda.gate_rows(args);
        cuda.quantize_rows({.rows = kRows,
                            .columns = columns,
                            .bfloat16 = bfloat16,
                            .input = output.data(),
                            .codes = expected_codes.data(),
                            .scales = expected_scales.data(),
                            .scale = scale});
        args.output = nullptr;
        args.codes = codes.data();
        args.scales = scales.data();
        cuda.gate_rows(args);
        ExpectNoDeviceError();
        EXPECT_EQ(codes.Read(), expected_codes.Read()) << columns;
        EXPECT_EQ(scales.Read(), expected_scales.Read()) << columns;
      }
    }
  }
}

TEST(GateRowsTest, ReferenceInt8ByHand) {
  std::vector<uint16_t> gate(8, FloatToHalf(1)), up(8);
  for (int k = 0; k < 8; ++k) up[k] = FloatToHalf(static_cast<float>(k) - 4);
  std::vector<int8_t> codes(8);
  float scale = 0;
  GateRowsReference({.rows = 1,
                     .columns = 8,
                     .stride = 8,
                     .activation = Activation::kRelu,
                     .gate = gate.data(),
                     .up = up.data(),
                     .codes = codes.data(),
                     .scales = &scale});
  EXPECT_EQ(codes, (std::vector<int8_t>{-127, -95, -64, -32, 0, 32, 64, 95}));
  EXPECT_EQ(scale, 4.0f / 127);
}

TEST(GateRowsTest, NanStaysNan) {
  QD_SKIP_WITHOUT_GPU();
  const auto nan = ToSixteen(std::numeric_limits<float>::quiet_NaN(), false);
  const OnDevice<uint16_t> gate(std::vector<uint16_t>(8, nan)), output(8);
  const OnDevice<uint16_t> up(std::vector<uint16_t>(8, FloatToHalf(0)));
  FindBackend("cuda")->gate_rows({.rows = 1,
                                  .columns = 8,
                                  .stride = 8,
                                  .activation = Activation::kRelu,
                                  .gate = gate.data(),
                                  .up = up.data(),
                                  .output = output.data()});
  ExpectNoDeviceError();
  for (const uint16_t y : output.Read()) EXPECT_TRUE(std::isnan(HalfToFloat(y)));
}

}  // namespace
}  // namespace quantd::kernels
