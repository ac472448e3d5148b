// Every order that a model in use needs is orthogonal, whole where it can be, and undone by its
// transpose.
#include "workers/engine/methods/hadamard.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "workers/engine/tensor/aten.h"

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

TEST(HadamardTest, SeedChoosesSigns) {
  const at::Tensor x = at::eye(64, at::kDouble);
  EXPECT_TRUE(Rotation::Make(64, 1, true).Apply(x).equal(Rotation::Make(64, 1, true).Apply(x)));
  EXPECT_FALSE(Rotation::Make(64, 1, true).Apply(x).equal(Rotation::Make(64, 2, true).Apply(x)));
  EXPECT_TRUE(Rotation::Make(64, 1, false).Apply(x).equal(Rotation::Make(64, 2, false).Apply(x)));
}

}  // namespace
}  // namespace quantd::engine
