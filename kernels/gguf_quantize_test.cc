// GGUF blocks: both variants bit for bit, the layouts against bytes written out by hand, and the
// error that the searches leave against that of the plain formulas.
#include "kernels/gguf_quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "kernels/gguf_pack.h"
#include "kernels/gguf_plain.h"
#include "kernels/half.h"
#include "kernels/random_test.h"

namespace quantd::kernels {
namespace {

constexpr int64_t kRows = 19;  // Odd: the last tile of sub-blocks is not full.
constexpr int64_t kColumns = 768;

std::vector<uint8_t> Quantize(const std::vector<float>& weight, GgufType type,
                              const float* importance, void (*quantize)(const GgufQuantize&),
                              int64_t columns = kColumns) {
  const GgufBlock& block = *FindGgufBlock(type);
  const int64_t rows = static_cast<int64_t>(weight.size()) / columns;
  const int64_t row_bytes = columns / block.weights * block.bytes;
  std::vector<uint8_t> blocks(rows * row_bytes);
  quantize({type, weight.data(), columns, rows, columns, importance, blocks.data(), row_bytes});
  return blocks;
}

std::vector<float> Dequantize(const std::vector<uint8_t>& blocks, GgufType type,
                              void (*dequantize)(const GgufDequantize&) = GgufDequantizeCpu,
                              int64_t columns = kColumns) {
  const GgufBlock& block = *FindGgufBlock(type);
  const int64_t row_bytes = columns / block.weights * block.bytes;
  const int64_t rows = static_cast<int64_t>(blocks.size()) / row_bytes;
  std::vector<float> weight(rows * columns);
  dequantize({type, blocks.data(), row_bytes, rows, columns, weight.data(), columns});
  return weight;
}

std::vector<float> RandomImportance(uint32_t seed) {
  std::mt19937 random(seed);
  std::exponential_distribution<float> draw(1);
  std::vector<float> importance(kColumns);
  for (float& value : importance) value = draw(random) * draw(random) + 0.01f;
  return importance;
}

double Error(const std::vector<float>& weight, const std::vector<float>& back,
             const float* importance = nullptr) {
  double sum = 0;
  for (size_t i = 0; i < weight.size(); ++i) {
    const double difference = weight[i] - back[i];
    sum += difference * difference * (importance ? importance[i % kColumns] : 1);
  }
  return sum;
}

TEST(GgufQuantizeTest, VariantsAgree) {
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 11);
  const std::vector<float> importance = RandomImportance(12);
  for (const GgufBlock& block : kGgufBlocks) {
    for (const float* columns : {static_cast<const float*>(nullptr), importance.data()}) {
      const std::vector<uint8_t> blocks =
          Quantize(weight, block.type, columns, GgufQuantizeReference);
      EXPECT_EQ(blocks, Quantize(weight, block.type, columns, GgufQuantizeCpu)) << block.name;
      EXPECT_EQ(Dequantize(blocks, block.type, GgufDequantizeReference),
                Dequantize(blocks, block.type, GgufDequantizeCpu))
          << block.name;
    }
  }
}

// Any bytes are a block; whatever they mean, both variants must read the same.
TEST(GgufQuantizeTest, VariantsReadAnyBytesAlike) {
  std::mt19937 random(13);
  for (const GgufBlock& block : kGgufBlocks) {
    std::vector<uint8_t> blocks(kColumns / block.weights * block.bytes * 5);
    for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random());
    const std::vector<float> reference = Dequantize(blocks, block.type, GgufDequantizeReference);
    const std::vector<float> cpu = Dequantize(blocks, block.type, GgufDequantizeCpu);
    for (size_t i = 0; i < cpu.size(); ++i) {
      EXPECT_TRUE(cpu[i] == reference[i] || (std::isnan(cpu[i]) && std::isnan(reference[i])))
          << block.name << " " << i;
    }
  }
}

TEST(GgufQuantizeTest, PackingRoundTrips) {
  std::mt19937 random(14);
  for (const KLayout& layout : kKLayouts) {
    CodesK codes;
    codes.d = 0x1234;
    codes.dmin = layout.affine ? 0x2345 : 0;
    for (uint8_t& code : codes.code) code = random() % (1u << layout.bits());
    for (int sub = 0; sub < layout.sub_blocks(); ++sub) {
      const int range = layout.scale_high - layout.scale_low + 1;
      codes.scale[sub] = static_cast<int8_t>(layout.scale_low + static_cast<int>(random() % range));
      codes.minimum[sub] = layout.affine ? random() % (layout.scale_high + 1) : 0;
    }
    std::vector<uint8_t> block(FindGgufBlock(layout.type)->bytes);
    PackBlockK(layout, codes, block.data());
    const CodesK back = UnpackBlockK(layout, block.data());
    EXPECT_EQ(std::memcmp(&codes, &back, sizeof codes), 0) << static_cast<int>(layout.type);
  }
}

// Bytes by hand from the format's description.
TEST(GgufQuantizeTest, BlocksByHand) {
  std::vector<float> weight(32, 0);
  weight[0] = -8;
  weight[1] = 7;
  weight[16] = 1;
  const std::vector<uint8_t> q4_0 = Quantize(weight, GgufType::kQ4_0, nullptr, GgufQuantizeCpu, 32);
  ASSERT_EQ(q4_0.size(), 18u);
  EXPECT_EQ(GetHalf(q4_0.data()), FloatToHalf(1));
  EXPECT_EQ(q4_0[2], 0x90);  // Code 0, and 9 in the upper half.
  EXPECT_EQ(q4_0[3], 0x8f);
  EXPECT_EQ(q4_0[4], 0x88);
  weight[2] = 127;
  weight[3] = 0.5f;
  const std::vector<uint8_t> q8_0 = Quantize(weight, GgufType::kQ8_0, nullptr, GgufQuantizeCpu, 32);
  EXPECT_EQ(GetHalf(q8_0.data()), FloatToHalf(1));
  EXPECT_EQ(static_cast<int8_t>(q8_0[2]), -8);
  EXPECT_EQ(static_cast<int8_t>(q8_0[4]), 127);
  EXPECT_EQ(static_cast<int8_t>(q8_0[5]), 1);  // Halves go away from zero.
  // q4_k: weight 70 is in sub-block 2 (of 32): chunk 1, low nibbles, byte 32 + 6.
  std::vector<uint8_t> block(144, 0);
  PutHalf(FloatToHalf(0.5f), block.data());
  PutHalf(FloatToHalf(0.25f), block.data() + 2);
  block[4 + 2] = 3;      // Scale of sub-block 2.
  block[4 + 4 + 2] = 5;  // Its minimum.
  block[16 + 32 + 6] = 0x0b;
  const std::vector<float> back = Dequantize(block, GgufType::kQ4K, GgufDequantizeCpu, kKWeights);
  EXPECT_EQ(back[70], 0.5f * 3 * 11 - 0.25f * 5);
  EXPECT_EQ(back[71], -0.25f * 5);
  EXPECT_EQ(back[0], 0);
}

TEST(GgufQuantizeTest, MoreBitsLeaveLessError) {
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 15);
  const auto error = [&](GgufType type) {
    return Error(weight, Dequantize(Quantize(weight, type, nullptr, GgufQuantizeCpu), type));
  };
  const GgufType falling[] = {GgufType::kQ2K, GgufType::kQ3K, GgufType::kQ4K,
                              GgufType::kQ5K, GgufType::kQ6K, GgufType::kQ8_0};
  for (size_t i = 1; i < std::size(falling); ++i) {
    EXPECT_LT(error(falling[i]), error(falling[i - 1])) << i;
  }
  EXPECT_LT(error(GgufType::kQ4K), error(GgufType::kQ4_0) * 0.7);
  EXPECT_LT(error(GgufType::kQ5K), error(GgufType::kQ5_0) * 0.7);
}

TEST(GgufQuantizeTest, ImportanceLowersTheWeightedError) {
  const std::vector<float> weight = RandomWeights(kRows, kColumns, 16);
  const std::vector<float> importance = RandomImportance(17);
  for (const GgufType type : {GgufType::kQ4_0, GgufType::kQ4_1, GgufType::kQ5_0, GgufType::kQ5_1,
                              GgufType::kQ2K, GgufType::kQ3K, GgufType::kQ4K, GgufType::kQ6K}) {
    const auto error = [&](const float* columns) {
      return Error(weight, Dequantize(Quantize(weight, type, columns, GgufQuantizeCpu), type),
                   importance.data());
    };
    EXPECT_LT(error(importance.data()), error(nullptr)) << FindGgufBlock(type)->name;
  }
}

// All alike, all zero, hardly above zero, beyond binary16: nothing infinite, nothing undefined.
TEST(GgufQuantizeTest, StrangeRowsStayFinite) {
  const std::vector<float> importance(kColumns, 0);
  for (const float value : {0.0f, 1.0f, -3.5f, 1e-30f, 1e-42f, -6e-8f, 3e4f}) {
    const std::vector<float> weight(kColumns, value);
    for (const GgufBlock& block : kGgufBlocks) {
      for (const float* columns : {static_cast<const float*>(nullptr), importance.data()}) {
        const std::vector<uint8_t> blocks = Quantize(weight, block.type, columns, GgufQuantizeCpu);
        EXPECT_EQ(blocks, Quantize(weight, block.type, columns, GgufQuantizeReference))
            << block.name << " " << value;
        for (const float back : Dequantize(blocks, block.type)) {
          ASSERT_TRUE(std::isfinite(back)) << block.name << " " << value;
          if (columns != nullptr) continue;
          ASSERT_NEAR(back, value, std::abs(value) * 0.04 + 1e-6) << block.name;
        }
      }
    }
  }
}

TEST(GgufPlainTest, Bfloat16RoundsToEven) {
  EXPECT_EQ(FloatToBfloat16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBfloat16(1.00390625f), 0x3f80);  // Half a step above 1: to even.
  EXPECT_EQ(FloatToBfloat16(1.01171875f), 0x3f82);
  EXPECT_TRUE(std::isnan(Bfloat16ToFloat(FloatToBfloat16(std::nanf("")))));
}

}  // namespace
}  // namespace quantd::kernels
