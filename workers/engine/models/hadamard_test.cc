// Every order that a model in use needs is orthogonal, whole where it can be, and undone by its
// transpose.
#include "workers/engine/models/hadamard.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"

namespace quantd::engine {
namespace {

TEST(HadamardTest, PaleyOrdersAreHadamard) {
  // First construction, second, and over fields of 7^3, 7^2 and 3^3 elements.
  for (const int64_t order : {1, 2, 4, 12, 20, 68, 108, 140, 36, 76, 148, 344, 100, 28}) {
    const at::Tensor matrix = PaleyHadamard(order);
    ASSERT_TRUE(matrix.defined()) << order;
    EXPECT_TRUE(matrix.abs().equal(at::ones({order, order}, at::kDouble))) << order;
    EXPECT_TRUE(at::matmul(matrix, matrix.t())
                    .equal(at::eye(order, at::kDouble) * static_cast<double>(order)))
        << order;
  }
  for (const int64_t order : {3, 6, 92, 172}) EXPECT_FALSE(PaleyHadamard(order).defined()) << order;
}

TEST(HadamardTest, EveryWidthInUseIsRotatedWhole) {
  for (const int64_t size : {64,   80,   96,   128,  256,  384,  576,  768,  896,  1024,
                             1152, 1536, 2048, 2304, 2560, 3072, 3584, 4096, 5120, 8192}) {
    EXPECT_EQ(Rotation::Make(size, 1, true).block(), size);
  }
  // Widths of MLPs: 28 64, 108 128, 76 64, 140 64, 344 32, 924 32, 684 16; 107 128 has none.
  for (const int64_t size : {14336, 13824, 4864, 8960, 11008, 29568, 10944}) {
    EXPECT_EQ(Rotation::Make(size, 1, true).block(), size);
  }
  EXPECT_EQ(Rotation::Make(13696, 1, true).block(), 128);
  EXPECT_EQ(Rotation::Make(7, 1, true).block(), 1);
}

TEST(HadamardTest, RotationIsOrthogonalAndUndone) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  for (const int64_t size : {1, 2, 12, 96, 104, 256, 896, 214}) {
    const Rotation rotation = Rotation::Make(size, 9, true);
    const at::Tensor x = at::randn({3, 5, size}, generator, at::kDouble);
    const at::Tensor turned = rotation.Apply(x);
    EXPECT_TRUE(at::allclose(rotation.ApplyTransposed(turned), x, 1e-12, 1e-12)) << size;
    EXPECT_TRUE(at::allclose(turned.square().sum(-1), x.square().sum(-1), 1e-12, 1e-12)) << size;
    const at::Tensor matrix = rotation.Apply(at::eye(size, at::kDouble));
    EXPECT_TRUE(at::allclose(at::matmul(x, matrix), turned, 1e-11, 1e-11)) << size;
    if (rotation.block() == size && size > 2) {
      // Every channel is spread over all: no entry is larger than 1 / sqrt(size).
      EXPECT_NEAR(matrix.abs().max().item<double>(), 1 / std::sqrt(size), 1e-12) << size;
    }
  }
}

// kernels/hadamard_rows.h takes [order, power] as one rotation of order * power columns: with
// Paley's matrix it is the rotation of weights without signs.
TEST(HadamardTest, TheKernelsTurnActivationsByTheSameMatrix) {
  at::Generator generator = at::detail::createCPUGenerator(7);
  struct Sizes {
    int64_t order, power;
  };
  for (const Sizes& sizes : {Sizes{12, 128}, {28, 32}, {28, 512}, {20, 4}}) {
    const int64_t n = sizes.order * sizes.power;
    const Rotation rotation = Rotation::Make(n, 0, /*random_signs=*/false);
    ASSERT_EQ(rotation.block(), n);
    const at::Tensor matrix = PaleyHadamard(sizes.order).to(at::kFloat).contiguous();
    const at::Tensor x = at::randn({3, n}, generator, at::kDouble).to(at::kHalf);
    const at::Tensor y = at::empty_like(x);
    const char* error = KernelsOn(at::kCPU).hadamard_rows(
        {.rows = 3,
         .columns = n,
         .power = sizes.power,
         .order = sizes.order,
         .matrix = matrix.const_data_ptr<float>(),
         .input = static_cast<const uint16_t*>(x.const_data_ptr()),
         .output = static_cast<uint16_t*>(y.mutable_data_ptr())});
    ASSERT_EQ(error, nullptr) << error;
    const at::Tensor wide = x.to(at::kDouble);
    const at::Tensor exact = rotation.Apply(wide);
    // The header's bound, and one rounding to binary16.
    const double steps =
        std::log2(static_cast<double>(sizes.power)) + static_cast<double>(sizes.order) + 2;
    const at::Tensor sums = wide.abs().sum(-1, /*keepdim=*/true) *
                            (steps * 0x1p-24 / std::sqrt(static_cast<double>(n)));
    const at::Tensor bound = sums + (exact.abs() + sums).mul(0x1p-11).clamp_min(0x1p-25);
    EXPECT_TRUE(((y.to(at::kDouble) - exact).abs() <= bound).all().item<bool>()) << n;
  }
}

TEST(HadamardTest, SeedChoosesSigns) {
  const at::Tensor x = at::eye(64, at::kDouble);
  EXPECT_TRUE(Rotation::Make(64, 1, true).Apply(x).equal(Rotation::Make(64, 1, true).Apply(x)));
  EXPECT_FALSE(Rotation::Make(64, 1, true).Apply(x).equal(Rotation::Make(64, 2, true).Apply(x)));
  EXPECT_TRUE(Rotation::Make(64, 1, false).Apply(x).equal(Rotation::Make(64, 2, false).Apply(x)));
}

}  // namespace
}  // namespace quantd::engine
