// The convention by hand-computed cases, and the variants against each other bit for bit.
#include "kernels/find_params.h"

#include <gtest/gtest.h>

#include "kernels/half.h"
#include "kernels/random_test.h"

namespace quantd::kernels {
namespace {

TEST(FindParamsTest, Symmetric) {
  const GroupParams params = ParamsOfRange(-0.5f, 0.25f, 4, true);
  EXPECT_EQ(params.zero, 8);
  EXPECT_EQ(params.scale, FloatToHalf(1.0f / 15));
}

TEST(FindParamsTest, Asymmetric) {
  const GroupParams params = ParamsOfRange(-0.5f, 1.0f, 4, false);
  EXPECT_EQ(params.scale, FloatToHalf(0.1f));
  EXPECT_EQ(params.zero, 5);
}

TEST(FindParamsTest, AllNonNegativeKeepsZeroPointOne) {
  const GroupParams params = ParamsOfRange(0.1f, 1.4f, 4, false);
  EXPECT_EQ(params.zero, 1);
  EXPECT_EQ(params.scale, FloatToHalf(0.1f));
  EXPECT_EQ(ParamsOfRange(-1.5f, -0.3f, 4, false).zero, 15);
}

TEST(FindParamsTest, ZeroGroupAndExtremes) {
  EXPECT_EQ(ParamsOfRange(0, 0, 4, true).scale, FloatToHalf(2.0f / 15));
  EXPECT_EQ(ParamsOfRange(-1e-30f, 1e-30f, 4, true).scale, 1);
  EXPECT_EQ(ParamsOfRange(-1e30f, 3e38f, 4, false).scale, 0x7bff);
}

TEST(FindParamsTest, VariantsAgree) {
  constexpr int64_t kRows = 37;
  constexpr int64_t kColumns = 200;
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 1);
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t group : {1, 32, 64, 200}) {
        const int64_t groups = (kColumns + group - 1) / group;
        std::vector<uint16_t> scales[2];
        std::vector<uint8_t> zeros[2];
        for (int variant = 0; variant < 2; ++variant) {
          scales[variant].resize(kRows * groups);
          zeros[variant].resize(kRows * groups);
          (variant ? FindParamsCpu : FindParamsReference)({.weight = weight.data(),
                                                           .weight_stride = kColumns,
                                                           .rows = kRows,
                                                           .columns = kColumns,
                                                           .group_columns = group,
                                                           .bits = bits,
                                                           .symmetric = symmetric,
                                                           .scales = scales[variant].data(),
                                                           .zeros = zeros[variant].data(),
                                                           .params_stride = groups});
        }
        EXPECT_EQ(scales[0], scales[1]);
        EXPECT_EQ(zeros[0], zeros[1]);
        for (const uint8_t zero : zeros[0]) EXPECT_GE(zero, 1);
      }
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
