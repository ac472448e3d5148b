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
