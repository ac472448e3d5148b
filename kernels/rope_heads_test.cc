// The formula by hand, and the device bit for bit.
#include "kernels/rope_heads.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/device_test.h"
#include "kernels/sixteen.h"

namespace quantd::kernels {
namespace {

std::vector<uint16_t> Random(int64_t count, float size, bool bfloat16, uint32_t seed) {
  testing::Test::RecordProperty("seed", static_cast<int>(seed));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) value = ToSixteen(normal(random) * size, bfloat16);
  return values;
}

TEST(RopeHeadsTest, ReferenceByHand) {
  std::vector<uint16_t> x, cos, sin, y(6);
  for (const float value : {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f}) x.push_back(FloatToHalf(value));
  for (const float value : {0.5f, 1.0f, 0.5f, 1.0f}) cos.push_back(FloatToHalf(value));
  for (const float value : {2.0f, 0.0f, 2.0f, 0.0f}) sin.push_back(FloatToHalf(value));
  RopeHeadsReference({.batch = 1,
                      .heads = 1,
                      .tokens = 1,
                      .dim = 6,
                      .turned = 4,
                      .input = x.data(),
                      .cos = cos.data(),
                      .sin = sin.data(),
                      .output = y.data()});
  const float expected[6] = {0.5f - 6, 2, 1.5f + 2, 4, 5, 6};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(HalfToFloat(y[i]), expected[i]) << i;
}

TEST(RopeHeadsTest, CudaAgreesBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  struct Sizes {
    int64_t batch, heads, tokens, dim, turned;
  };
  for (const Sizes& sizes : {Sizes{1, 1, 1, 4, 4}, Sizes{2, 3, 5, 64, 64}, Sizes{1, 8, 17, 80, 32},
                             Sizes{3, 4, 2, 128, 128}, Sizes{1, 32, 300, 96, 96}}) {
    for (const bool bfloat16 : {false, true}) {
      for (const bool own_tables : {false, true}) {
        const int64_t count = sizes.batch * sizes.heads * sizes.tokens * sizes.dim;
        const int64_t table = sizes.tokens * sizes.turned;
        const std::vector<uint16_t> x = Random(count, 3, bfloat16, 41);
        const std::vector<uint16_t> cos = Random(table * sizes.batch, 1, bfloat16, 42);
        const std::vector<uint16_t> sin = Random(table * sizes.batch, 1, bfloat16, 43);
        std::vector<uint16_t> expected(count);
        // From [B, T, H, D], as the linears leave them, to [B, H, T, D].
        RopeHeads args = {
            .batch = sizes.batch,
            .heads = sizes.heads,
            .tokens = sizes.tokens,
            .dim = sizes.dim,
            .turned = sizes.turned,
            .bfloat16 = bfloat16,
            .input = x.data(),
            .from = {sizes.tokens * sizes.heads * sizes.dim, sizes.dim, sizes.heads * sizes.dim},
            .cos = cos.data(),
            .sin = sin.data(),
            .table_batch_stride = own_tables ? table : 0,
            .output = expected.data(),
            .to = {sizes.tokens * sizes.heads * sizes.dim, sizes.tokens * sizes.dim, sizes.dim}};
        RopeHeadsReference(args);
        const OnDevice<uint16_t> input(x), cosines(cos), sines(sin), output(x.size());
        args.input = input.data();
        args.cos = cosines.data();
        args.sin = sines.data();
        args.output = output.data();
        FindBackend("cuda")->rope_heads(args);
        ExpectNoDeviceError();
        EXPECT_EQ(output.Read(), expected) << sizes.dim << " " << sizes.turned;
      }
    }
  }
}

}  // namespace
}  // namespace quantd::kernels
