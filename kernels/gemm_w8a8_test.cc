// Products of int8 and the quantization of their inputs: bit for bit against the references.
#include "kernels/gemm_w8a8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/gemm_w4a16.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

std::vector<uint16_t> RandomRows(int64_t rows, int64_t columns, bool bfloat16) {
  std::mt19937 random(static_cast<unsigned>(rows * 7 + columns));
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values;
  for (int64_t i = 0; i < rows * columns; ++i) {
    const float size = i % 97 == 13 ? 50.0f : i / columns % 11 == 4 ? 1e-6f : 1.0f;
    values.push_back(ToSixteen(normal(random) * size, bfloat16));
  }
  return values;
}

TEST(QuantizeRowsTest, ReferenceByHand) {
  std::vector<uint16_t> input(24, 0);
  const float first[8] = {127, -63.5f, 2.5f, 1.5f, -127, 0.4f, 0, -0.6f};
  for (int k = 0; k < 8; ++k) input[k] = FloatToHalf(first[k]);
  input[17] = FloatToHalf(std::numeric_limits<float>::infinity());
  std::vector<int8_t> codes(24, 99);
  std::vector<float> scales(3);
  QuantizeRowsReference({3, 8, false, input.data(), codes.data(), scales.data()});
  EXPECT_EQ(std::vector<int8_t>(codes.begin(), codes.begin() + 8),
            (std::vector<int8_t>{127, -64, 2, 2, -127, 0, 0, -1}));
  EXPECT_EQ(scales[0], 1);
  EXPECT_EQ(scales[1], 1);
  EXPECT_TRUE(std::isnan(scales[2]));
  EXPECT_EQ(std::vector<int8_t>(codes.begin() + 8, codes.end()), std::vector<int8_t>(16, 0));
  std::vector<uint16_t> rounded(24);
  QuantizeRowsReference(
      {.rows = 3, .columns = 8, .input = input.data(), .rounded = rounded.data()});
  for (int k = 0; k < 16; ++k) EXPECT_EQ(HalfToFloat(rounded[k]), codes[k]);
  for (int k = 16; k < 24; ++k) EXPECT_TRUE(std::isnan(HalfToFloat(rounded[k])));
}

TEST(QuantizeRowsTest, ReferenceWithAScaleByHand) {
  const float numbers[8] = {1, -0.75f, 0.25f, 100, -100, 0.26f, 0, 0};
  std::vector<uint16_t> input;
  for (const float number : numbers) input.push_back(FloatToHalf(number));
  input[7] = FloatToHalf(std::numeric_limits<float>::quiet_NaN());
  std::vector<int8_t> codes(8);
  float scale = 0;
  QuantizeRowsReference({.rows = 1,
                         .columns = 8,
                         .input = input.data(),
                         .codes = codes.data(),
                         .scales = &scale,
                         .scale = 0.5f});
  EXPECT_EQ(codes, (std::vector<int8_t>{2, -2, 0, 127, -128, 1, 0, 0}));
  EXPECT_EQ(scale, 0.5f);
}

TEST(QuantizeRowsTest, CudaAgreesBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  for (const bool bfloat16 : {false, true}) {
    for (const int64_t columns : {8, 24, 4096, 4104, 28672}) {
      constexpr int64_t kRows = 15;
      std::vector<uint16_t> input = RandomRows(kRows, columns, bfloat16);
      std::fill(input.begin() + columns, input.begin() + 2 * columns, uint16_t{0});
      input[2 * columns + 3] = ToSixteen(std::numeric_limits<float>::quiet_NaN(), bfloat16);
      input[3 * columns + 1] = ToSixteen(-std::numeric_limits<float>::infinity(), bfloat16);
      std::fill(input.begin() + 5 * columns, input.begin() + 6 * columns, uint16_t{1});
      std::vector<int8_t> codes(input.size());
      std::vector<float> scales(kRows);
      QuantizeRowsReference({kRows, columns, bfloat16, input.data(), codes.data(), scales.data()});
      const OnDevice<uint16_t> input_there(input);
      const OnDevice<int8_t> codes_there(codes.size());
      const OnDevice<float> scales_there(scales.size());
      FindBackend("cuda")->quantize_rows(
          {kRows, columns, bfloat16, input_there.data(), codes_there.data(), scales_there.data()});
      ExpectNoDeviceError();
      EXPECT_EQ(codes_there.Read(), codes) << columns;
      const std::vector<float> scales_back = scales_there.Read();
      for (int64_t row = 0; row < kRows; ++row) {
        if (std::isnan(scales[row])) {
          EXPECT_TRUE(std::isnan(scales_back[row])) << row;
        } else {
          EXPECT_EQ(scales_back[row], scales[row]) << row;
        }
      }
      QuantizeRows args = {
          .rows = kRows, .columns = columns, .bfloat16 = bfloat16, .input = input.data()};
      std::vector<uint16_t> rounded(input.size());
      args.rounded = rounded.data();
      QuantizeRowsReference(args);
      args.input = args.rounded = input_there.data();  // In place.
      FindBackend("cuda")->quantize_rows(args);
      ExpectNoDeviceError();
      const std::vector<uint16_t> rounded_back = input_there.Read();
      for (size_t i = 0; i < rounded.size(); ++i) {
        const float want = FromSixteen(rounded[i], bfloat16);
        const float got = FromSixteen(rounded_back[i], bfloat16);
        ASSERT_TRUE(got == want || (std::isnan(got) && std::isnan(want))) << columns << " at " << i;
      }
    }
  }
}

void CheckProduct(int64_t m, int64_t rows, int64_t columns, bool bfloat16, bool adds = false) {
  std::mt19937 random(static_cast<unsigned>(m + rows + columns));
  std::vector<int8_t> input(m * columns), weight(rows * columns);
  for (int8_t& value : input) value = static_cast<int8_t>(random() % 255 - 127);
  for (int8_t& value : weight) value = static_cast<int8_t>(random());
  std::vector<float> input_scales(m), weight_scales(rows);
  for (float& scale : input_scales) scale = static_cast<float>(random() % 1000 + 1) * 1e-4f;
  for (float& scale : weight_scales) scale = static_cast<float>(random() % 1000 + 1) * 1e-5f;
  const std::vector<uint16_t> bias = RandomRows(1, rows, bfloat16);
  const std::vector<uint16_t> residual = RandomRows(m, adds ? rows : 0, bfloat16);
  std::vector<uint16_t> expected(m * rows);
  GemmW8A8 args = {.m = m,
                   .rows = rows,
                   .columns = columns,
                   .input = input.data(),
                   .input_scales = input_scales.data(),
                   .weight = weight.data(),
                   .weight_scales = weight_scales.data(),
                   .bias = bias.data(),
                   .residual = adds ? residual.data() : nullptr,
                   .bfloat16 = bfloat16,
                   .output = expected.data()};
  GemmW8A8Reference(args);
  const OnDevice<int8_t> input_there(input), weight_there(weight);
  const OnDevice<float> input_scales_there(input_scales), weight_scales_there(weight_scales);
  const OnDevice<uint16_t> bias_there(bias), residual_there(residual);
  const OnDevice<uint16_t> output_there(expected.size());
  args.input = input_there.data();
  args.input_scales = input_scales_there.data();
  args.weight = weight_there.data();
  args.weight_scales = weight_scales_there.data();
  args.bias = bias_there.data();
  args.residual = adds ? residual_there.data() : nullptr;
  args.output = output_there.data();
  const char* error = FindBackend("cuda")->gemm_w8a8(args);
  ASSERT_EQ(error, nullptr) << error;
  ExpectNoDeviceError();
  ASSERT_EQ(output_there.Read(), expected)
      << "m " << m << " rows " << rows << " columns " << columns << " bfloat16 " << bfloat16;
  if (!adds) return;
  args.output = residual_there.data();  // In place.
  EXPECT_EQ(FindBackend("cuda")->gemm_w8a8(args), nullptr);
  ExpectNoDeviceError();
  ASSERT_EQ(residual_there.Read(), expected) << "in place, m " << m << " rows " << rows;
}

TEST(GemmW8A8Test, CudaAgreesBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  struct Shape {
    int64_t rows, columns;
  };
  for (const Shape& shape : {Shape{1, 16}, Shape{17, 128}, Shape{255, 1040}, Shape{256, 144},
                             Shape{264, 4096}, Shape{1000, 528}}) {
    for (const int64_t m : {0, 1, 7, 16, 17, 33, 64, 65, 128, 130, 257}) {
      if (shape.rows * shape.columns > 1000000 && m > 65) continue;
      for (const bool bfloat16 : {false, true}) {
        CheckProduct(m, shape.rows, shape.columns, bfloat16, /*adds=*/m % 2 == 1);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// So many tiles that two blocks share their inputs.
TEST(GemmW8A8Test, CudaManyTilesAgreeBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  for (const int64_t m : {300, 1100, 2300}) {
    for (const int64_t rows : {907, 1024}) {
      CheckProduct(m, rows, 272, m == 1100, /*adds=*/rows == 907);
      if (HasFatalFailure()) return;
    }
  }
}

// A tile or several for every processor of a large GPU: the last ones partly outside, fewer chunks
// of columns than stages, and more.
TEST(GemmW8A8Test, CudaTilesForAllProcessorsAgreeBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  struct Shape {
    int64_t m, rows, columns;
  };
  for (const Shape& shape : {Shape{2300, 2056, 144}, Shape{256, 12808, 528}, Shape{1050, 4000, 16},
                             Shape{4100, 1272, 128}}) {
    for (const bool bfloat16 : {false, true}) {
      CheckProduct(shape.m, shape.rows, shape.columns, bfloat16, /*adds=*/bfloat16);
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
