// Variants agree bit for bit on both axes, also where weights err so much that the slow path runs;
// optimizing never leaves a larger error than the start in the norm that it lowers.
#include "kernels/hqq_groups.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/device_test.h"
#include "kernels/random_test.h"

namespace quantd::kernels {
namespace {

struct Coded {
  int iterations = 0;
  std::vector<float> scales;
  std::vector<float> zeros;
  std::vector<uint8_t> codes;
};

struct Shape {
  int64_t rows;
  int64_t columns;
};

Coded Quantize(const std::vector<float>& weight, Shape shape, HqqGroups args,
               int (*quantize)(const HqqGroups&)) {
  const int64_t groups = args.axis == 1 ? shape.rows : shape.columns;
  Coded coded = {0, std::vector<float>(groups), std::vector<float>(groups),
                 std::vector<uint8_t>(weight.size())};
  args.weight = weight.data();
  args.rows = shape.rows;
  args.columns = shape.columns;
  args.scales = coded.scales.data();
  args.zeros = coded.zeros.data();
  args.codes = coded.codes.data();
  coded.iterations = quantize(args);
  return coded;
}

double MeanError(const std::vector<float>& weight, Shape shape, int axis, const Coded& coded) {
  double error = 0;
  for (size_t i = 0; i < weight.size(); ++i) {
    const size_t group = axis == 1 ? i / shape.columns : i % shape.columns;
    const float decoded =
        (static_cast<float>(coded.codes[i]) - coded.zeros[group]) * coded.scales[group];
    error += std::abs(static_cast<double>(weight[i]) - decoded);
  }
  return error / static_cast<double>(weight.size());
}

TEST(HqqGroupsTest, VariantsAgree) {
  for (const Shape shape : {Shape{64, 101}, Shape{101, 64}, Shape{33, 7}}) {
    std::vector<float> weight = RandomWeights(shape.rows, shape.columns, 31);
    for (const float factor : {1.0f, 40.0f}) {  // Times 40, errors are large enough to shrink.
      for (float& value : weight) value *= factor;
      for (const int axis : {0, 1}) {
        for (const int bits : {2, 3, 4, 8}) {
          for (const bool round_zero : {false, true}) {
            const HqqGroups args = {.axis = axis, .bits = bits, .round_zero = round_zero};
            const Coded slow = Quantize(weight, shape, args, HqqGroupsReference);
            const Coded fast = Quantize(weight, shape, args, HqqGroupsCpu);
            EXPECT_EQ(slow.iterations, fast.iterations);
            EXPECT_EQ(slow.scales, fast.scales);
            EXPECT_EQ(slow.zeros, fast.zeros);
            EXPECT_EQ(slow.codes, fast.codes);
          }
        }
      }
    }
  }
}

// All of a group's arithmetic is the CPU's, in its order: nothing but a power can differ, and then
// only where two libraries round one of float64 to different floats. Weights times 40 have powers.
TEST(HqqGroupsTest, CudaAgreesBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  for (const Shape shape : {Shape{64, 101}, Shape{101, 64}, Shape{33, 7}, Shape{4096, 64},
                            Shape{64, 3000}, Shape{1, 5}}) {
    const std::vector<float> plain = RandomWeights(shape.rows, shape.columns, 33);
    for (const float factor : {1.0f, 40.0f}) {
      std::vector<float> weight = plain;
      for (float& value : weight) value *= factor;
      for (const int axis : {0, 1}) {
        for (const int bits : {1, 2, 4, 8}) {
          for (const int iterations : {0, 1, 20}) {
            HqqGroups args = {
                .axis = axis, .bits = bits, .round_zero = bits == 4, .iterations = iterations};
            const Coded expected = Quantize(weight, shape, args, HqqGroupsCpu);
            const OnDevice<float> input(weight), scales(expected.scales.size()),
                zeros(expected.zeros.size());
            const OnDevice<uint8_t> codes(weight.size()),
                scratch(HqqScratchBytes(static_cast<int64_t>(expected.scales.size())));
            args.weight = input.data();
            args.rows = shape.rows;
            args.columns = shape.columns;
            args.scales = scales.data();
            args.zeros = zeros.data();
            args.codes = codes.data();
            args.scratch = scratch.data();
            EXPECT_EQ(FindBackend("cuda")->hqq_groups(args), expected.iterations);
            ExpectNoDeviceError();
            SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.columns << ", axis "
                                            << axis << ", " << bits << " bits, times " << factor
                                            << ", " << iterations << " iterations");
            EXPECT_EQ(scales.Read(), expected.scales);
            EXPECT_EQ(zeros.Read(), expected.zeros);
            EXPECT_EQ(codes.Read(), expected.codes);
          }
        }
      }
    }
  }
}

TEST(HqqGroupsTest, OptimizingLowersTheError) {
  const Shape shape = {256, 64};
  const std::vector<float> weight = RandomWeights(shape.rows, shape.columns, 32);
  for (const int axis : {0, 1}) {
    for (const int bits : {2, 3, 4}) {
      HqqGroups args = {.axis = axis, .bits = bits, .iterations = 0};
      const double before =
          MeanError(weight, shape, axis, Quantize(weight, shape, args, HqqGroupsCpu));
      args.iterations = 20;
      const Coded coded = Quantize(weight, shape, args, HqqGroupsCpu);
      EXPECT_GT(coded.iterations, 1);
      EXPECT_LT(MeanError(weight, shape, axis, coded), before) << bits << " " << axis;
    }
  }
}

TEST(HqqGroupsTest, AGroupOfOneValue) {
  for (const auto quantize : {HqqGroupsReference, HqqGroupsCpu}) {
    const Coded coded = Quantize({0.25f, 0.25f}, {1, 2}, {.axis = 1, .bits = 4}, quantize);
    EXPECT_EQ(coded.scales[0], 1);
    EXPECT_NEAR((static_cast<float>(coded.codes[0]) - coded.zeros[0]) * coded.scales[0], 0.25f,
                1e-6f);
  }
}

}  // namespace
}  // namespace quantd::kernels
