// Rounded inputs against hand-made numbers.
#include "workers/engine/models/input_quantization.h"

#include <gtest/gtest.h>

#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

TEST(InputQuantizationTest, PerToken) {
  const at::Tensor x = at::tensor({127.f, 0.6f, -3.2f, 0.f, 0.f, 0.f}).view({2, 3});
  const at::Tensor expected = at::tensor({127.f, 1.f, -3.f, 0.f, 0.f, 0.f}).view({2, 3});
  EXPECT_TRUE(RoundInput(x, {.kind = InputKind::kInt8PerToken}).equal(expected));
  EXPECT_TRUE(RoundInput(x, {}).is_same(x));
}

TEST(InputQuantizationTest, PerTensorClampsWhatCalibrationDidNotSee) {
  const at::Tensor x = at::tensor({0.5f, 1.0f, 1000.f, -1000.f});
  const at::Tensor rounded = RoundInput(x, {.kind = InputKind::kInt8PerTensor, .scale = 0.5f});
  EXPECT_TRUE(rounded.equal(at::tensor({0.5f, 1.0f, 63.5f, -64.f})));
}

TEST(InputQuantizationTest, OutlierColumnsStay) {
  const at::Tensor x = at::tensor({7.77f, 1.27f, 0.004f, 0.1f, -0.5f, 0.254f}).view({2, 3});
  const at::Tensor rounded = RoundInput(x, {.kind = InputKind::kLlmInt8, .outlier_threshold = 6.0});
  EXPECT_EQ(rounded[0][0].item<float>(), 7.77f);
  EXPECT_EQ(rounded[1][0].item<float>(), 0.1f);  // The same column.
  EXPECT_EQ(rounded[0][2].item<float>(), 0);     // 0.004 / 0.01.
  EXPECT_NEAR(rounded[1][2].item<float>(), 65 * 0.5 / 127, 1e-6);
}

}  // namespace
}  // namespace quantd::engine
