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

TEST(FindParamsTest, SearchClipsALoneOutlier) {
  std::vector<float> weight(128, 0.1f);
  for (int k = 0; k < 128; k += 2) weight[k] = -0.07f;
  weight[5] = 0.25f;
  std::vector<float> column_weights(128, 1.0f);
  uint16_t scale[3];
  uint8_t zero;
  FindParams args = {.weight = weight.data(),
                     .weight_stride = 128,
                     .rows = 1,
                     .columns = 128,
                     .group_columns = 128,
                     .bits = 2,
                     .scales = &scale[0],
                     .zeros = &zero,
                     .params_stride = 1};
  FindParamsCpu(args);
  args.search_steps = 80;
  args.scales = &scale[1];
  FindParamsCpu(args);
  EXPECT_LT(HalfToFloat(scale[1]), HalfToFloat(scale[0]));
  // Where the outlier matters more than all others together it is kept.
  column_weights[5] = 1e6f;
  args.column_weights = column_weights.data();
  args.scales = &scale[2];
  FindParamsCpu(args);
  EXPECT_EQ(scale[2], scale[0]);
}

TEST(FindParamsTest, VariantsAgree) {
  constexpr int64_t kRows = 37;
  constexpr int64_t kColumns = 200;
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 1);
  std::vector<float> columns = RandomWeights(1, kColumns, 5);
  for (float& column : columns) column *= column;
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t group : {1, 32, 64, 200}) {
        for (const int search_steps : {0, 1, 60}) {
          const int64_t groups = (kColumns + group - 1) / group;
          std::vector<uint16_t> scales[2];
          std::vector<uint8_t> zeros[2];
          for (int variant = 0; variant < 2; ++variant) {
            scales[variant].resize(kRows * groups);
            zeros[variant].resize(kRows * groups);
            (variant ? FindParamsCpu : FindParamsReference)(
                {.weight = weight.data(),
                 .weight_stride = kColumns,
                 .rows = kRows,
                 .columns = kColumns,
                 .group_columns = group,
                 .bits = bits,
                 .symmetric = symmetric,
                 .search_steps = search_steps,
                 .column_weights = search_steps == 60 ? columns.data() : nullptr,
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
}

}  // namespace
}  // namespace quantd::kernels
