// hqq, bnb_4bit and bnb_8bit: schemes that tell the truth, errors that shrink with the bits, and
// weights that are refused.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>

#include <cmath>

#include "workers/engine/methods/method.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

at::Tensor RandomWeight() {
  at::Generator generator = at::detail::createCPUGenerator(11);
  return at::randn({64, 128}, generator) * 0.02;
}

absl::StatusOr<LinearResult> Quantize(const char* name, const json& given,
                                      const at::Tensor& weight) {
  const Method* method = FindMethod(name).value();
  const json options = ResolveOptions(*method, given).value();
  return method->Quantize({.name = "m", .weight = weight.clone(), .options = &options});
}

double RelativeError(const char* name, const json& given) {
  const at::Tensor weight = RandomWeight();
  const at::Tensor decoded = *Dequantize(Quantize(name, given, weight)->linear, at::kFloat);
  return std::sqrt((decoded - weight).square().sum().item<double>() /
                   weight.square().sum().item<double>());
}

TEST(DataFreeMethodsTest, ErrorsAreWhatTheLiteratureSays) {
  // Of normal weights in groups of 64, as the reference programs leave them.
  EXPECT_NEAR(RelativeError("hqq", {{"bits", 8}}), 0.0051, 0.0005);
  EXPECT_NEAR(RelativeError("hqq", {{"bits", 4}}), 0.0875, 0.004);
  EXPECT_NEAR(RelativeError("hqq", {{"bits", 4}, {"axis", 0}}), 0.0873, 0.004);
  EXPECT_NEAR(RelativeError("bnb_4bit", {}), 0.0919, 0.004);
  EXPECT_LT(RelativeError("bnb_4bit", {}), RelativeError("bnb_4bit", {{"quant_type", "fp4"}}));
  EXPECT_LT(RelativeError("bnb_8bit", {}), 0.01);
  EXPECT_NEAR(RelativeError("bnb_4bit", {{"double_quant", false}}), RelativeError("bnb_4bit", {}),
              0.002);
}

TEST(DataFreeMethodsTest, SchemesAreWhatComesOut) {
  for (const auto& [name, given] : std::vector<std::pair<const char*, json>>{
           {"hqq", {{"bits", 3}}},
           {"hqq", {{"bits", 2}, {"axis", 0}, {"group_size", -1}, {"compute_dtype", "float32"}}},
           {"bnb_4bit", {{"quant_type", "fp4"}}},
           {"bnb_4bit", {{"double_quant", false}}},
           {"bnb_8bit", {}}}) {
    const Method* method = FindMethod(name).value();
    const json options = ResolveOptions(*method, given).value();
    EXPECT_TRUE(method->CheckLinear("m", 64, 128, options).ok());
    EXPECT_EQ(SchemeToJson(method->Scheme("m", 64, 128, options)),
              SchemeToJson(SchemeOf("m", Quantize(name, given, RandomWeight())->linear)))
        << name;
  }
}

TEST(DataFreeMethodsTest, BadWeightsAndShapesAreNamed) {
  for (const char* name : {"hqq", "bnb_4bit", "bnb_8bit"}) {
    at::Tensor weight = RandomWeight();
    weight[3][5] = NAN;
    EXPECT_THAT(std::string(Quantize(name, {}, weight).status().message()),
                HasSubstr("row 3, column 5"));
  }
  at::Tensor large = RandomWeight();
  large[0][0] = 1e6;
  EXPECT_FALSE(Quantize("bnb_8bit", {}, large).ok());  // bitsandbytes' float16 cannot hold it.
  const Method* hqq = FindMethod("hqq").value();
  const json options = ResolveOptions(*hqq, {{"axis", 0}, {"group_size", 64}}).value();
  EXPECT_THAT(std::string(hqq->CheckLinear("m", 48, 128, options).message()),
              HasSubstr("48 output rows"));
}

TEST(DataFreeMethodsTest, ZerosStayZeros) {
  for (const char* name : {"hqq", "bnb_4bit", "bnb_8bit"}) {
    const auto result = Quantize(name, {}, at::zeros({64, 128}));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(Dequantize(result->linear, at::kFloat)->abs().max().item<float>(), 0) << name;
  }
}

}  // namespace
}  // namespace quantd::engine
