// What the CPU multiplies with as it is stored gives what the decoded weight gives.
#include "workers/engine/formats/packed_product.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randperm.h>
#include <gtest/gtest.h>

#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"

namespace quantd::engine {
namespace {

constexpr int64_t kN = 70;

QuantizedLinear Random(int64_t columns, int64_t group) {
  EXPECT_TRUE(SetDeterministic(3).ok());
  QuantizedLinear linear = {.bits = 4, .group_size = group};
  linear.codes = at::randint(0, 16, {kN, columns}, at::kByte);
  linear.scales = (at::rand({kN, columns / group}) * 0.02).to(at::kHalf);
  linear.zeros = at::full({kN, columns / group}, 8, at::kByte);
  linear.group_index = OrderedGroups(columns, group);
  return linear;
}

std::shared_ptr<const PackedWeight> Pack(const QuantizedLinear& linear,
                                         at::ScalarType dtype = at::kFloat) {
  auto packed = PackForProducts(linear, at::kCPU, dtype);
  EXPECT_TRUE(packed.ok()) << packed.status();
  return packed.value_or(nullptr);
}

void ExpectTheDecodedProduct(const QuantizedLinear& linear, bool biased) {
  ASSERT_TRUE(linear.Check().ok()) << linear.Check();
  const auto packed = Pack(linear);
  ASSERT_NE(packed, nullptr);
  EXPECT_EQ(packed->kernel(), "w4a32");
  const int64_t columns = linear.inputs();
  // Half a byte a weight, and at most five for a group's scale and zero.
  EXPECT_LE(packed->size_bytes(), kN * (columns / 2 + 5 * linear.groups()));
  const at::Tensor weight = linear.Dequantize(at::kFloat).value().to(at::kDouble);
  const at::Tensor bias = biased ? at::randn({kN}) : at::Tensor();
  for (const int64_t rows : {1, 4, 15, 16, 40}) {  // By the kernel, and by panels.
    const at::Tensor x = at::randn({2, rows, columns}).narrow(0, 1, 1);
    at::Tensor expected = at::linear(x.to(at::kDouble), weight);
    if (biased) expected = expected + bias.to(at::kDouble);
    const at::Tensor got = packed->Multiply(x, bias);
    ASSERT_EQ(got.sizes(), expected.sizes());
    // kernels/gemm_w4a32.h; a matrix library adds no more often than one by one.
    const at::Tensor sizes = at::linear(x.to(at::kDouble).abs(), weight.abs());
    const at::Tensor bound =
        sizes * (static_cast<double>(columns) * 0x1p-23) + expected.abs() * 0x1p-22;
    EXPECT_TRUE(((got.to(at::kDouble) - expected).abs() <= bound).all().item<bool>()) << rows;
  }
}

TEST(PackedProductTest, SymmetricGroupsOfEverySize) {
  for (const auto& [columns, group] :
       {std::pair<int64_t, int64_t>{64, 32}, {192, 64}, {256, 128}, {320, 320}}) {
    SCOPED_TRACE(group);
    ExpectTheDecodedProduct(Random(columns, group), group == 128);
  }
}

TEST(PackedProductTest, ZerosAndAnOrderOfTheColumns) {
  QuantizedLinear linear = Random(256, 64);
  linear.symmetric = false;
  linear.zeros = at::randint(0, 16, linear.zeros.sizes(), at::kByte);
  ExpectTheDecodedProduct(linear, false);
  linear.group_index = linear.group_index.index_select(0, at::randperm(256));  // desc_act
  ExpectTheDecodedProduct(linear, true);
}

TEST(PackedProductTest, TheRestIsDecoded) {
  EXPECT_EQ(Pack(Random(96, 32)), nullptr);  // Not a multiple of 64.
  EXPECT_EQ(Pack(Random(256, 64), at::kBFloat16), nullptr);
  QuantizedLinear linear = Random(256, 64);
  linear.zeros = linear.zeros.to(at::kHalf) + 0.25;  // As HQQ has them.
  EXPECT_EQ(Pack(linear), nullptr);
  linear = Random(256, 64);
  linear.bits = 3;
  EXPECT_EQ(Pack(linear), nullptr);
  linear = Random(256, 64);
  linear.scales = linear.scales.to(at::kFloat) + 1e-9f;  // No binary16 numbers.
  EXPECT_EQ(Pack(linear), nullptr);
}

}  // namespace
}  // namespace quantd::engine
