// Variants agree bit for bit; with the identity as inverse the result is round-to-nearest.
#include "kernels/gptq_block.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/device_test.h"
#include "kernels/find_params.h"
#include "kernels/random_test.h"
#include "kernels/rtn_rows.h"

namespace quantd::kernels {
namespace {

struct Outcome {
  std::vector<float> weight;
  std::vector<uint16_t> scales;
  std::vector<uint8_t> zeros;
  std::vector<uint8_t> codes;
  std::vector<float> errors;
  std::vector<double> losses;
};

struct Shape {
  int64_t rows;
  int64_t columns;
  int64_t group;
  int bits;
  bool symmetric;
  bool find;
  int search_steps;
};

Outcome Quantize(const Shape& shape, const std::vector<float>& weight,
                 const std::vector<float>& inverse, void (*block)(const GptqBlock&)) {
  const int64_t groups = shape.columns / shape.group;
  Outcome run = {weight,
                 std::vector<uint16_t>(shape.rows * groups),
                 std::vector<uint8_t>(shape.rows * groups),
                 std::vector<uint8_t>(weight.size()),
                 std::vector<float>(weight.size()),
                 std::vector<double>(shape.rows, 1.0)};
  std::vector<int32_t> group_of_column(shape.columns);
  for (int64_t k = 0; k < shape.columns; ++k) {
    group_of_column[k] = static_cast<int32_t>(k / shape.group);
  }
  if (!shape.find) {
    FindParamsReference({weight.data(), shape.columns, shape.rows, shape.columns, shape.group,
                         shape.bits, shape.symmetric, 0, nullptr, run.scales.data(),
                         run.zeros.data(), groups});
  }
  block({.rows = shape.rows,
         .columns = shape.columns,
         .bits = shape.bits,
         .symmetric = shape.symmetric,
         .find_columns = shape.find ? shape.group : 0,
         .search_steps = shape.search_steps,
         .weight = run.weight.data(),
         .weight_stride = shape.columns,
         .inverse = inverse.data(),
         .inverse_stride = shape.columns,
         .group_of_column = group_of_column.data(),
         .scales = run.scales.data(),
         .zeros = run.zeros.data(),
         .params_stride = groups,
         .codes = run.codes.data(),
         .codes_stride = shape.columns,
         .errors = run.errors.data(),
         .errors_stride = shape.columns,
         .losses = run.losses.data()});
  return run;
}

// The CUDA variant between copies to the device and back.
void GptqBlockOnDevice(const GptqBlock& host) {
  const auto vector = [](auto* data, int64_t size) {
    return std::vector<std::remove_cv_t<std::remove_reference_t<decltype(*data)>>>(data,
                                                                                   data + size);
  };
  const int64_t size = host.rows * host.columns;
  const int64_t params = host.rows * host.params_stride;
  const OnDevice<float> weight(vector(host.weight, size)), errors(static_cast<size_t>(size));
  const OnDevice<float> inverse(vector(host.inverse, host.columns * host.columns));
  const OnDevice<int32_t> group_of_column(vector(host.group_of_column, host.columns));
  const OnDevice<uint16_t> scales(vector(host.scales, params));
  const OnDevice<uint8_t> zeros(vector(host.zeros, params)), codes(static_cast<size_t>(size));
  const OnDevice<double> losses(vector(host.losses, host.rows));
  const OnDevice<float> column_weights(host.column_weights == nullptr
                                           ? std::vector<float>()
                                           : vector(host.column_weights, host.columns));
  GptqBlock device = host;
  device.weight = weight.data();
  device.inverse = inverse.data();
  device.group_of_column = group_of_column.data();
  device.scales = scales.data();
  device.zeros = zeros.data();
  device.codes = codes.data();
  device.errors = errors.data();
  device.losses = losses.data();
  if (host.column_weights != nullptr) device.column_weights = column_weights.data();
  FindBackend("cuda")->gptq_block(device);
  ExpectNoDeviceError();
  const auto back = [](const auto& from, auto* to) {
    const auto values = from.Read();
    std::copy(values.begin(), values.end(), to);
  };
  back(weight, host.weight);
  back(scales, host.scales);
  back(zeros, host.zeros);
  back(codes, host.codes);
  back(errors, host.errors);
  back(losses, host.losses);
}

TEST(GptqBlockTest, CudaAgreesBitForBit) {
  QD_SKIP_WITHOUT_GPU();
  for (const int64_t rows : {1, 16, 41}) {
    for (const int64_t columns : {32, 64, 96, 128, 160, 256}) {
      const std::vector<float> weight = RandomWeights(rows, columns, 14);
      std::vector<float> inverse = RandomWeights(columns, columns, 15);
      for (int64_t i = 0; i < columns; ++i) {
        inverse[i * columns + i] = 0.5f + std::abs(inverse[i * columns + i]);
      }
      for (const int bits : {2, 3, 4, 8}) {
        for (const bool symmetric : {true, false}) {
          for (const int search_steps : {-1, 0, 80}) {
            const Shape shape = {
                rows, columns, 32, bits, symmetric, search_steps >= 0, std::max(search_steps, 0)};
            const Outcome reference = Quantize(shape, weight, inverse, GptqBlockReference);
            const Outcome cuda = Quantize(shape, weight, inverse, GptqBlockOnDevice);
            EXPECT_EQ(reference.codes, cuda.codes);
            EXPECT_EQ(reference.scales, cuda.scales);
            EXPECT_EQ(reference.zeros, cuda.zeros);
            EXPECT_EQ(reference.errors, cuda.errors);
            EXPECT_EQ(reference.losses, cuda.losses);
          }
        }
      }
    }
  }
}

TEST(GptqBlockTest, VariantsAgree) {
  for (const int64_t rows : {1, 16, 41}) {
    const std::vector<float> weight = RandomWeights(rows, 128, 11);
    std::vector<float> inverse = RandomWeights(128, 128, 12);
    for (int64_t i = 0; i < 128; ++i) inverse[i * 128 + i] = 0.5f + std::abs(inverse[i * 128 + i]);
    for (const int bits : {2, 3, 4, 8}) {
      for (const bool symmetric : {true, false}) {
        for (const bool find : {true, false}) {
          const Shape shape = {rows, 128, 32, bits, symmetric, find, find ? 20 : 0};
          const Outcome reference = Quantize(shape, weight, inverse, GptqBlockReference);
          const Outcome cpu = Quantize(shape, weight, inverse, GptqBlockCpu);
          EXPECT_EQ(reference.codes, cpu.codes);
          EXPECT_EQ(reference.scales, cpu.scales);
          EXPECT_EQ(reference.zeros, cpu.zeros);
          EXPECT_EQ(reference.errors, cpu.errors);
          EXPECT_EQ(reference.losses, cpu.losses);
        }
      }
    }
  }
}

TEST(GptqBlockTest, IdentityIsRoundToNearest) {
  const Shape shape = {20, 64, 32, 3, true, true, 0};
  const std::vector<float> weight = RandomWeights(shape.rows, shape.columns, 13);
  std::vector<float> identity(64 * 64);
  for (int64_t i = 0; i < 64; ++i) identity[i * 64 + i] = 1;
  const Outcome run = Quantize(shape, weight, identity, GptqBlockCpu);
  std::vector<uint8_t> codes(weight.size());
  RtnRowsReference(
      {weight.data(), 64, 20, 64, 32, 3, run.scales.data(), run.zeros.data(), 2, codes.data(), 64});
  EXPECT_EQ(run.codes, codes);
}

}  // namespace
}  // namespace quantd::kernels
