// Every alternative of QuantizedWeight against a loop over its definition, against tensors that do
// not fit, and its scheme through the records and back.
#include "workers/engine/methods/quantized_linear.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>

#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kN = 6, kK = 8;

at::Generator Random(uint64_t seed) { return at::detail::createCPUGenerator(seed); }

at::Tensor Bytes(int64_t limit, at::IntArrayRef shape, uint64_t seed) {
  return at::randint(0, limit, shape, Random(seed)).to(at::kByte);
}

float At(const at::Tensor& tensor, int64_t i, int64_t j) { return tensor[i][j].item<float>(); }

QuantizedLinear Affine() {
  QuantizedLinear linear;
  linear.group_size = 4;
  linear.codes = Bytes(16, {kN, kK}, 1);
  linear.scales = (at::rand({kN, 2}, Random(2)) + 0.1).to(at::kHalf);
  linear.zeros = Bytes(16, {kN, 2}, 3);
  linear.group_index = at::floor_divide(at::arange(kK, at::kInt), 4).to(at::kInt);
  return linear;
}

TEST(QuantizedLinearTest, FloatingScalesAndZeros) {
  QuantizedLinear linear = Affine();
  const at::Tensor plain = *linear.Dequantize(at::kFloat);
  linear.scales = linear.scales.to(at::kFloat);
  EXPECT_TRUE(linear.Dequantize(at::kFloat)->equal(plain));
  linear.zeros = linear.zeros.to(at::kHalf);
  EXPECT_TRUE(linear.Dequantize(at::kFloat)->equal(plain));
  EXPECT_TRUE(linear.Check().ok()) << linear.Check();
  EXPECT_FALSE(SchemeOf("m", linear).integer_zeros);
  linear.zeros = at::full({kN, 2}, INFINITY, at::kHalf);
  EXPECT_THAT(std::string(linear.Check().message()), HasSubstr("zeros"));
}

TEST(QuantizedLinearTest, AxisZero) {
  QuantizedLinear linear = Affine();
  linear.axis = 0;
  linear.group_size = 3;
  linear.scales = at::rand({kN / 3, kK}, Random(4));
  linear.zeros = at::randn({kN / 3, kK}, Random(5));
  linear.group_index = at::Tensor();
  ASSERT_TRUE(linear.Check().ok()) << linear.Check();
  const at::Tensor weight = *linear.Dequantize(at::kFloat);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) {
      const int64_t r = n % (kN / 3);
      EXPECT_FLOAT_EQ(At(weight, n, k),
                      At(linear.scales, r, k) * (At(linear.codes, n, k) - At(linear.zeros, r, k)));
    }
  }
  linear.group_size = 4;
  EXPECT_FALSE(linear.Check().ok());
}

CodebookLinear Codebook() {
  CodebookLinear linear;
  linear.type = "nf4";
  linear.block_size = 5;  // Straddles rows; the last block is short.
  linear.codes = Bytes(16, {kN, kK}, 6);
  linear.codebook = at::randn({16}, Random(7));
  linear.absmax = at::rand({10}, Random(8));
  return linear;
}

TEST(CodebookLinearTest, BlocksOfTheFlattenedWeight) {
  const CodebookLinear linear = Codebook();
  ASSERT_TRUE(linear.Check().ok()) << linear.Check();
  const at::Tensor weight = *Dequantize(QuantizedWeight(linear), at::kFloat);
  for (int64_t i = 0; i < kN * kK; ++i) {
    const int64_t code = linear.codes.flatten()[i].item<int64_t>();
    EXPECT_EQ(weight.flatten()[i].item<float>(),
              linear.codebook[code].item<float>() * linear.absmax[i / 5].item<float>());
  }
}

TEST(CodebookLinearTest, NestedScales) {
  CodebookLinear plain = Codebook();
  CodebookLinear linear = plain;
  linear.absmax = at::Tensor();
  linear.nested = QuantizedScales{.codes = Bytes(256, {10}, 9),
                                  .codebook = at::randn({256}, Random(10)),
                                  .absmax = at::rand({3}, Random(11)),
                                  .offset = 0.5,
                                  .block_size = 4};
  ASSERT_TRUE(linear.Check().ok()) << linear.Check();
  plain.absmax = at::zeros({10});
  for (int64_t i = 0; i < 10; ++i) {
    const int64_t code = linear.nested->codes[i].item<int64_t>();
    plain.absmax[i] = linear.nested->codebook[code] * linear.nested->absmax[i / 4] + 0.5;
  }
  EXPECT_TRUE(linear.Dequantize(at::kFloat)->equal(*plain.Dequantize(at::kFloat)));
  EXPECT_TRUE(SchemeOf("m", linear).double_quantized);
}

TEST(CodebookLinearTest, RefusesWhatDoesNotFit) {
  CodebookLinear linear = Codebook();
  linear.codes = Bytes(256, {kN, kK}, 12) + 16;
  EXPECT_THAT(std::string(Check(linear).message()), HasSubstr("codes"));
  linear = Codebook();
  linear.absmax = at::rand({9});
  EXPECT_THAT(std::string(Check(linear).message()), HasSubstr("absmax"));
}

// Two weights a byte pair: the byte minus 128, and the second byte.
constexpr BlockEncoding kPairs = {
    .name = "pairs",
    .bits = 8,
    .block_weights = 2,
    .block_bytes = 2,
    .decode = [](const uint8_t* bytes, int64_t blocks, float* weights) {
      for (int64_t i = 0; i < blocks; ++i) {
        weights[2 * i] = static_cast<float>(bytes[2 * i]) - 128;
        weights[2 * i + 1] = bytes[2 * i + 1];
      }
    }};

TEST(BlockLinearTest, DecodesRowsOfBlocks) {
  const BlockLinear linear = {.encoding = &kPairs, .bytes = Bytes(256, {kN, kK}, 13)};
  ASSERT_TRUE(linear.Check().ok()) << linear.Check();
  const at::Tensor weight = *linear.Dequantize(at::kFloat);
  EXPECT_EQ(At(weight, 2, 4), At(linear.bytes, 2, 4) - 128);
  EXPECT_EQ(At(weight, 2, 5), At(linear.bytes, 2, 5));
  const BlockLinear odd = {.encoding = &kPairs, .bytes = Bytes(256, {kN, kK + 1}, 14)};
  EXPECT_THAT(std::string(Check(odd).message()), HasSubstr("pairs"));
}

TEST(LinearSchemeTest, ThroughTheRecords) {
  QuantizedLinear activated = Affine();
  activated.input = {.kind = InputKind::kInt8PerToken};
  activated.symmetric = false;
  for (const QuantizedWeight& weight :
       {QuantizedWeight(Affine()), QuantizedWeight(activated), QuantizedWeight(Codebook()),
        QuantizedWeight(BlockLinear{&kPairs, Bytes(256, {kN, kK}, 13)})}) {
    const LinearScheme scheme = SchemeOf("model.layers.0.x", weight);
    const nlohmann::json json = SchemeToJson(scheme);
    const auto back = SchemeFromJson(json);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(SchemeToJson(*back), json);
    EXPECT_EQ(back->encoding, scheme.encoding);
    EXPECT_EQ(back->input, scheme.input);
  }
}

TEST(LinearSchemeTest, RefusesDamagedRecords) {
  const nlohmann::json good = SchemeToJson(SchemeOf("m", Affine()));
  for (const auto& [field, value] : std::map<std::string, nlohmann::json>{{"name", 5},
                                                                          {"outputs", 0},
                                                                          {"inputs", "8"},
                                                                          {"bits", 64},
                                                                          {"groupSize", 0},
                                                                          {"axis", 2},
                                                                          {"encoding", "magic"},
                                                                          {"input", "int3"}}) {
    nlohmann::json damaged = good;
    damaged[field] = value;
    EXPECT_THAT(std::string(SchemeFromJson(damaged).status().message()), HasSubstr(field));
  }
  nlohmann::json damaged = good;
  damaged.erase("bits");
  EXPECT_FALSE(SchemeFromJson(damaged).ok());
}

}  // namespace
}  // namespace quantd::engine
