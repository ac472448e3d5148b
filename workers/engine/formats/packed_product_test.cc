// What is multiplied with as it is stored, on the CPU and of int8 on a GPU, gives what the decoded
// weight gives.
#include "workers/engine/formats/packed_product.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randperm.h>
#include <gtest/gtest.h>

#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/kernels.h"

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

// The GPU's product of int8 adds the residual itself: the bits of an addition behind it.
TEST(PackedProductTest, W8A8AddsResiduals) {
  const absl::StatusOr<at::Device> gpu = SelectDevice("cuda:0");
  if (!gpu.ok()) GTEST_SKIP() << gpu.status();
  if (!KernelDevice(*gpu).is_cuda()) GTEST_SKIP() << "no kernels for the GPU";
  ASSERT_TRUE(SetDeterministic(4).ok());
  QuantizedLinear linear = {.bits = 8, .group_size = 256};
  linear.codes = at::randint(1, 256, {kN, 256}, at::kByte);
  linear.scales = (at::rand({kN, 1}) * 0.001).to(at::kHalf);
  linear.zeros = at::full({kN, 1}, 128, at::kByte);
  linear.group_index = OrderedGroups(256, 256);
  const at::Tensor weight = linear.Dequantize(at::kFloat).value();
  for (const InputKind kind : {InputKind::kInt8PerToken, InputKind::kInt8PerTensor}) {
    linear.input = {.kind = kind, .scale = 0.03f};
    const auto packed = PackForProducts(linear, *gpu, at::kBFloat16);
    ASSERT_TRUE(packed.ok()) << packed.status();
    ASSERT_NE(*packed, nullptr);
    EXPECT_EQ((*packed)->kernel(), "w8a8");
    const LinearInput x = at::randn({2, 9, 256}).to(*gpu, at::kBFloat16);
    const at::Tensor bias = at::randn({kN}).to(*gpu, at::kBFloat16);
    const at::Tensor residual = at::randn({2, 9, kN}).to(*gpu, at::kBFloat16);
    const at::Tensor product = (*packed)->Multiply(x, bias);
    EXPECT_TRUE((*packed)->MultiplyAdd(x, bias, residual).equal(residual + product));
    // Rounding an input moves it by half a step at most, the product's own rounding by 2^-9.
    const at::Tensor rows = x.values().to(at::kCPU, at::kFloat);
    const at::Tensor exact = at::linear(rows, weight, bias.to(at::kCPU, at::kFloat));
    const at::Tensor step = kind == InputKind::kInt8PerTensor ? at::full({2, 9, 1}, 0.03)
                                                              : rows.abs().amax(-1, true) / 127;
    const at::Tensor cut = (rows.abs() - 127 * step).clamp_min(0);
    const at::Tensor bound = at::linear(step * 0.501 + cut, weight.abs()) + exact.abs() * 0x1p-7;
    EXPECT_TRUE(((product.to(at::kCPU, at::kFloat) - exact).abs() <= bound).all().item<bool>());
  }
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
