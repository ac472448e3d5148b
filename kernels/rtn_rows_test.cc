// Variants agree bit for bit; a code is never further than half a scale from its weight unless it
// is clamped.
#include "kernels/rtn_rows.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/dequantize_rows.h"
#include "kernels/find_params.h"
#include "kernels/half.h"
#include "kernels/random_test.h"

namespace quantd::kernels {
namespace {

constexpr int64_t kRows = 35;
constexpr int64_t kColumns = 192;

struct Coded {
  std::vector<uint16_t> scales;
  std::vector<uint8_t> zeros;
  std::vector<uint8_t> codes;
};

Coded Quantize(const std::vector<float>& weight, int bits, bool symmetric, int64_t group,
               void (*rtn)(const RtnRows&)) {
  const int64_t groups = kColumns / group;
  Coded coded = {std::vector<uint16_t>(kRows * groups), std::vector<uint8_t>(kRows * groups),
                 std::vector<uint8_t>(kRows * kColumns)};
  FindParamsReference({weight.data(), kColumns, kRows, kColumns, group, bits, symmetric, 0, nullptr,
                       coded.scales.data(), coded.zeros.data(), groups});
  rtn({weight.data(), kColumns, kRows, kColumns, group, bits, coded.scales.data(),
       coded.zeros.data(), groups, coded.codes.data(), kColumns});
  return coded;
}

TEST(RtnRowsTest, VariantsAgree) {
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 2);
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t group : {32, 64, 192}) {
        EXPECT_EQ(Quantize(weight, bits, symmetric, group, RtnRowsReference).codes,
                  Quantize(weight, bits, symmetric, group, RtnRowsCpu).codes);
      }
    }
  }
}

TEST(RtnRowsTest, HalvesGoToEven) {
  const std::vector<float> weight = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 100.0f, -100.0f};
  const uint16_t scale = FloatToHalf(1);
  const uint8_t zero = 8;
  for (const auto rtn : {RtnRowsReference, RtnRowsCpu}) {
    std::vector<uint8_t> codes(weight.size());
    rtn({weight.data(), 7, 1, 7, 7, 4, &scale, &zero, 1, codes.data(), 7});
    EXPECT_EQ(codes, (std::vector<uint8_t>{8, 10, 10, 8, 6, 15, 0}));
  }
}

TEST(RtnRowsTest, ErrorIsAtMostHalfAScale) {
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 3);
  constexpr int64_t kGroup = 64;
  std::vector<int32_t> group_index(kColumns);
  for (int64_t k = 0; k < kColumns; ++k) group_index[k] = static_cast<int32_t>(k / kGroup);
  for (const int bits : {2, 3, 4, 8}) {
    const Coded coded = Quantize(weight, bits, false, kGroup, RtnRowsCpu);
    std::vector<float> back[2] = {std::vector<float>(kRows * kColumns),
                                  std::vector<float>(kRows * kColumns)};
    for (int variant = 0; variant < 2; ++variant) {
      (variant ? DequantizeRowsCpu : DequantizeRowsReference)(
          {coded.codes.data(), kColumns, coded.scales.data(), coded.zeros.data(), kColumns / kGroup,
           group_index.data(), kRows, kColumns, kColumns / kGroup, back[variant].data(), kColumns});
    }
    EXPECT_EQ(back[0], back[1]);
    const int code_max = (1 << bits) - 1;
    for (int64_t i = 0; i < kRows * kColumns; ++i) {
      const int64_t param = i / kColumns * (kColumns / kGroup) + i % kColumns / kGroup;
      const float scale = HalfToFloat(coded.scales[param]);
      // At the ends the rounded zero point shifts the grid by up to half a step, and the scale was
      // rounded to 11 bits: code_max * 2^-11 steps more.
      const bool end = coded.codes[i] == 0 || coded.codes[i] == code_max;
      const float bound = scale * (end ? 1 + code_max * 0x1p-11f : 0.5f);
      EXPECT_LE(std::abs(back[0][i] - weight[i]), bound * (1 + 1e-6f)) << bits << " " << i;
    }
  }
}

TEST(DequantizeRowsTest, ScatteredGroups) {
  const std::vector<uint8_t> codes = {0, 1, 2, 3};
  const std::vector<uint16_t> scales = {FloatToHalf(1), FloatToHalf(0.5f)};
  const std::vector<uint8_t> zeros = {1, 2};
  const std::vector<int32_t> group_index = {1, 0, 1, 1};
  for (const auto dequantize : {DequantizeRowsReference, DequantizeRowsCpu}) {
    std::vector<float> weight(4);
    dequantize({codes.data(), 4, scales.data(), zeros.data(), 2, group_index.data(), 1, 4, 2,
                weight.data(), 4});
    EXPECT_EQ(weight, (std::vector<float>{-1, 0, 0, 0.5f}));
  }
}

}  // namespace
}  // namespace quantd::kernels
