// The packed layout keeps every weight, and products agree with sums in double precision over the
// unpacked codes within the bound that gemm_w4a16.h derives.
#include "kernels/gemm_w4a16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

// A weight in the standard layout, and what each element is exactly.
struct Weight {
  W4Shape shape;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;
  std::vector<uint16_t> zeros;
  std::vector<float> table_scales;
  std::vector<double> exact;
};

Weight RandomWeight(const W4Shape& shape, bool integer_zeros, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(0.25f, 1.0f);
  const int64_t groups = (shape.columns + shape.group_columns - 1) / shape.group_columns;
  Weight weight = {
      .shape = shape, .codes = {}, .scales = {}, .zeros = {}, .table_scales = {}, .exact = {}};
  for (int64_t i = 0; i < shape.rows * shape.columns; ++i) {
    weight.codes.push_back(static_cast<uint8_t>(random() % 16));
  }
  for (int64_t i = 0; i < shape.rows * groups; ++i) {
    // Some scales are subnormal, as those of dead rows are.
    const float scale = i % 29 == 3 ? 3e-7f : 0.01f * uniform(random);
    weight.scales.push_back(FloatToHalf(scale));
    weight.table_scales.push_back(scale * 3);
    const float zero = integer_zeros ? static_cast<float>(random() % 16) : 15 * uniform(random);
    weight.zeros.push_back(FloatToHalf(zero));
  }
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t column = 0; column < shape.columns; ++column) {
      const int64_t param = row * groups + column / shape.group_columns;
      const int code = weight.codes[row * shape.columns + column];
      const double scale = HalfToFloat(weight.scales[param]);
      weight.exact.push_back(IsTable(shape.kind) ? static_cast<double>(weight.table_scales[param]) *
                                                       W4Table(shape.kind)[code]
                             : shape.kind == W4Kind::kSymmetric
                                 ? scale * (code - 8)
                                 : scale * (code - HalfToFloat(weight.zeros[param])));
    }
  }
  return weight;
}

std::vector<uint8_t> PackOnHost(const Weight& weight) {
  std::vector<uint8_t> packed(W4Bytes(weight.shape));
  PackW4Reference({.shape = weight.shape,
                   .codes = weight.codes.data(),
                   .scales = weight.scales.data(),
                   .zeros = weight.zeros.data(),
                   .table_scales = weight.table_scales.data(),
                   .packed = packed.data()});
  return packed;
}

std::vector<uint16_t> RandomSixteen(int64_t count, bool bfloat16, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values;
  for (int64_t i = 0; i < count; ++i) {
    const float value = i % 61 == 7 ? 0 : normal(random) * (i % 53 == 5 ? 30.0f : 1.0f);
    values.push_back(ToSixteen(value, bfloat16));
  }
  return values;
}

struct Operands {
  std::vector<uint16_t> input, bias, residual;
};

// Every element within the bound of the header.
void ExpectClose(const Weight& weight, int64_t m, bool bfloat16, const Operands& operands,
                 const std::vector<uint16_t>& output) {
  const double u = UnitRoundoff(bfloat16);
  const int64_t columns = weight.shape.columns;
  for (int64_t i = 0; i < m * weight.shape.rows; ++i) {
    const int64_t row = i % weight.shape.rows;
    double sum = FromSixteen(operands.bias[row], bfloat16);
    sum += FromSixteen(operands.residual[i], bfloat16);
    double size = std::abs(sum);
    double inputs = 0;
    for (int64_t k = 0; k < columns; ++k) {
      const double term =
          FromSixteen(operands.input[i / weight.shape.rows * columns + k], bfloat16) *
          weight.exact[row * columns + k];
      sum += term;
      size += std::abs(term);
      inputs +=
          std::abs(FromSixteen(operands.input[i / weight.shape.rows * columns + k], bfloat16));
    }
    // binary16 has no relative precision below its smallest normal number.
    const double bound = size * (4 * u + static_cast<double>(columns) * 0x1p-23) +
                         std::abs(sum) * u + (bfloat16 ? 0 : 0x1p-23 * inputs);
    ASSERT_NEAR(FromSixteen(output[i], bfloat16), sum, bound)
        << "m " << m << " rows " << weight.shape.rows << " columns " << columns << " group "
        << weight.shape.group_columns << " kind " << static_cast<int>(weight.shape.kind)
        << " bfloat16 " << bfloat16 << " at " << i;
  }
}

void CheckProduct(const Weight& weight, int64_t m, bool bfloat16) {
  const Operands operands = {RandomSixteen(m * weight.shape.columns, bfloat16, 21),
                             RandomSixteen(weight.shape.rows, bfloat16, 22),
                             RandomSixteen(m * weight.shape.rows, bfloat16, 23)};
  const OnDevice<uint8_t> packed(PackOnHost(weight));
  const OnDevice<uint16_t> input(operands.input), bias(operands.bias), residual(operands.residual);
  const OnDevice<uint16_t> output(operands.residual.size());
  const char* error = FindBackend("cuda")->gemm_w4a16({.shape = weight.shape,
                                                       .m = m,
                                                       .bfloat16 = bfloat16,
                                                       .input = input.data(),
                                                       .packed = packed.data(),
                                                       .bias = bias.data(),
                                                       .residual = residual.data(),
                                                       .output = output.data()});
  ASSERT_EQ(error, nullptr) << error;
  ExpectNoDeviceError();
  ExpectClose(weight, m, bfloat16, operands, output.Read());
}

TEST(GemmW4A16Test, ReferenceIsTheFormula) {
  for (const W4Kind kind : {W4Kind::kSymmetric, W4Kind::kZeroPoint, W4Kind::kNf4, W4Kind::kFp4}) {
    for (const int64_t group : {32, 64, 128, 264}) {
      const Weight weight = RandomWeight(
          {.rows = 37, .columns = 264, .group_columns = group, .kind = kind}, false, 5);
      const std::vector<uint8_t> packed = PackOnHost(weight);
      for (const bool bfloat16 : {false, true}) {
        std::vector<uint16_t> back(weight.exact.size());
        UnpackW4Reference({weight.shape, packed.data(), bfloat16, back.data()});
        const double u = UnitRoundoff(bfloat16);
        for (size_t i = 0; i < back.size(); ++i) {
          ASSERT_NEAR(FromSixteen(back[i], bfloat16), weight.exact[i],
                      std::abs(weight.exact[i]) * u * 1.01 + 0x1p-25);
        }
        const Operands operands = {RandomSixteen(3 * 264, bfloat16, 21),
                                   RandomSixteen(37, bfloat16, 22),
                                   RandomSixteen(3 * 37, bfloat16, 23)};
        std::vector<uint16_t> output(3 * 37);
        GemmW4A16Reference({.shape = weight.shape,
                            .m = 3,
                            .bfloat16 = bfloat16,
                            .input = operands.input.data(),
                            .packed = packed.data(),
                            .bias = operands.bias.data(),
                            .residual = operands.residual.data(),
                            .output = output.data()});
        ExpectClose(weight, 3, bfloat16, operands, output);
      }
    }
  }
}

TEST(GemmW4A16Test, CudaPacksLikeTheReference) {
  QD_SKIP_WITHOUT_GPU();
  for (const W4Kind kind : {W4Kind::kSymmetric, W4Kind::kZeroPoint, W4Kind::kNf4}) {
    for (const int64_t group : {32, 64, 128, 256, 520}) {
      const Weight weight = RandomWeight(
          {.rows = 83, .columns = 520, .group_columns = group, .kind = kind}, false, 6);
      const OnDevice<uint8_t> codes(weight.codes);
      const OnDevice<uint16_t> scales(weight.scales), zeros(weight.zeros);
      const OnDevice<float> table_scales(weight.table_scales);
      const OnDevice<uint8_t> packed(static_cast<size_t>(W4Bytes(weight.shape)));
      FindBackend("cuda")->pack_w4({.shape = weight.shape,
                                    .codes = codes.data(),
                                    .scales = scales.data(),
                                    .zeros = zeros.data(),
                                    .table_scales = table_scales.data(),
                                    .packed = packed.data()});
      EXPECT_EQ(packed.Read(), PackOnHost(weight));
      for (const bool bfloat16 : {false, true}) {
        const OnDevice<uint16_t> back(weight.codes.size());
        FindBackend("cuda")->unpack_w4({weight.shape, packed.data(), bfloat16, back.data()});
        std::vector<uint16_t> expected(weight.codes.size());
        UnpackW4Reference({weight.shape, PackOnHost(weight).data(), bfloat16, expected.data()});
        EXPECT_EQ(back.Read(), expected);
      }
      ExpectNoDeviceError();
    }
  }
}

TEST(GemmW4A16Test, CudaProductsOverShapes) {
  QD_SKIP_WITHOUT_GPU();
  struct Case {
    int64_t rows, columns, group;
  };
  // Around the tiles' edges: 16 and 64 rows, 128 columns.
  for (const Case& c :
       {Case{1, 8, 32}, Case{16, 128, 128}, Case{17, 136, 64}, Case{65, 1160, 32},
        Case{127, 1024, 128}, Case{130, 2048, 256}, Case{256, 1096, 1096}, Case{2200, 384, 128}}) {
    for (const int kind : {0, 1, 2, 3}) {
      // The second kind twice: integer zeros and others.
      constexpr W4Kind kKinds[] = {W4Kind::kSymmetric, W4Kind::kZeroPoint, W4Kind::kZeroPoint,
                                   W4Kind::kNf4};
      const Weight weight = RandomWeight(
          {.rows = c.rows, .columns = c.columns, .group_columns = c.group, .kind = kKinds[kind]},
          kind == 1, 7);
      for (const int64_t m : {1, 2, 7, 8, 9, 16, 17, 63, 64, 65, 127, 128, 129, 300}) {
        if (c.rows > 1000 && m > 65) continue;
        for (const bool bfloat16 : {false, true}) {
          CheckProduct(weight, m, bfloat16);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// So many tiles that two blocks share their inputs.
TEST(GemmW4A16Test, CudaManyTiles) {
  QD_SKIP_WITHOUT_GPU();
  for (const W4Kind kind : {W4Kind::kSymmetric, W4Kind::kZeroPoint, W4Kind::kNf4}) {
    for (const int64_t rows : {500, 1300}) {
      const Weight weight =
          RandomWeight({.rows = rows, .columns = 264, .group_columns = 128, .kind = kind}, true, 9);
      CheckProduct(weight, 129, true);
      CheckProduct(weight, 300, false);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(GemmW4A16Test, CudaEdgeValues) {
  QD_SKIP_WITHOUT_GPU();
  const Weight weight = RandomWeight({.rows = 64, .columns = 256}, true, 8);
  const OnDevice<uint8_t> packed(PackOnHost(weight));
  for (const int64_t m : {0, 3, 80}) {
    // A NaN spoils its own row of the output and no other; a row of zeros gives zeros.
    std::vector<uint16_t> values = RandomSixteen(m * 256, false, 31);
    if (m > 0) {
      values[256 + 40] = FloatToHalf(std::numeric_limits<float>::quiet_NaN());
      std::fill(values.begin() + 512, values.begin() + 768, uint16_t{0});
    }
    const OnDevice<uint16_t> input(values), output(static_cast<size_t>(m * 64));
    EXPECT_EQ(FindBackend("cuda")->gemm_w4a16({.shape = weight.shape,
                                               .m = m,
                                               .input = input.data(),
                                               .packed = packed.data(),
                                               .output = output.data()}),
              nullptr);
    ExpectNoDeviceError();
    const std::vector<uint16_t> got = output.Read();
    for (int64_t i = 0; i < m * 64; ++i) {
      const float value = HalfToFloat(got[i]);
      EXPECT_EQ(std::isnan(value), i / 64 == 1) << i;
      if (i / 64 == 2) {
        EXPECT_EQ(value, 0);
      }
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
