// Variants agree bit for bit; the largest weight of a row has code 1 or 255.
#include "kernels/int8_rows.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/random_test.h"

namespace quantd::kernels {
namespace {

constexpr int64_t kRows = 21;
constexpr int64_t kColumns = 133;

TEST(Int8RowsTest, VariantsAgreeAndStayWithinHalfAStep) {
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 21);
  std::vector<float> absmax[2] = {std::vector<float>(kRows), std::vector<float>(kRows)};
  std::vector<uint8_t> codes[2] = {std::vector<uint8_t>(weight.size()),
                                   std::vector<uint8_t>(weight.size())};
  for (int variant = 0; variant < 2; ++variant) {
    (variant ? Int8RowsCpu
             : Int8RowsReference)({weight.data(), kColumns, kRows, kColumns, absmax[variant].data(),
                                   codes[variant].data(), kColumns});
  }
  EXPECT_EQ(absmax[0], absmax[1]);
  EXPECT_EQ(codes[0], codes[1]);
  for (size_t i = 0; i < weight.size(); ++i) {
    const float step = absmax[0][i / kColumns] / 127;
    // The factor and the product are rounded: 127 steps of 2^-23 each.
    EXPECT_LE(std::abs(weight[i] - step * static_cast<float>(codes[0][i] - 128)),
              step * (0.5f + 127 * 0x1p-22f));
  }
}

TEST(Int8RowsTest, EndsHalvesAndZeros) {
  const std::vector<float> weight = {127, -127, 0.5f, 1.5f, -2.5f, 0, 0, 0, 0, 0};
  for (const auto round : {Int8RowsReference, Int8RowsCpu}) {
    std::vector<float> absmax(2);
    std::vector<uint8_t> codes(weight.size());
    round({weight.data(), 5, 2, 5, absmax.data(), codes.data(), 5});
    EXPECT_EQ(codes, (std::vector<uint8_t>{255, 1, 128, 130, 126, 128, 128, 128, 128, 128}));
    EXPECT_EQ(absmax, (std::vector<float>{127, 0}));
  }
}

}  // namespace
}  // namespace quantd::kernels
