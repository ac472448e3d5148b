// Every format against itself: what it packs has the names, types and shapes that it described, and
// comes back; against hand-made bytes; and against tensors and configurations that do not fit.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>

#include <cstring>
#include <map>

#include "workers/engine/checkpoint/config_cache.h"
#include "workers/engine/formats/awq_format.h"
#include "workers/engine/formats/bitsandbytes_format.h"
#include "workers/engine/formats/compressed_tensors_config.h"
#include "workers/engine/formats/compressed_tensors_format.h"
#include "workers/engine/formats/dense_format.h"
#include "workers/engine/formats/format.h"
#include "workers/engine/formats/gptq_format.h"
#include "workers/engine/formats/hqq_format.h"
#include "workers/engine/methods/method.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr int64_t kN = 32;
constexpr int64_t kK = 64;

at::Tensor RandomWeight() {
  at::Generator generator = at::detail::createCPUGenerator(7);
  return at::randn({kN, kK}, generator) * 0.02;
}

struct Made {
  LinearScheme scheme;
  QuantizedWeight weight;
};

// What `method` makes of a random weight.
Made Make(const std::string& method_name, const json& given) {
  const Method* method = FindMethod(method_name).value();
  const json options = ResolveOptions(*method, given).value();
  const LinearResult result =
      method->Quantize({.name = "m", .weight = RandomWeight(), .options = &options}).value();
  return {method->Scheme("m", kN, kK, options), result.linear};
}

class Tensors {
 public:
  Tensors(const Format& format, const Made& made) : format_(format) {
    const auto packed = format.Pack("m", made.weight);
    EXPECT_TRUE(packed.ok()) << packed.status();
    for (const NamedTensor& tensor : packed.value()) tensors_[tensor.name] = tensor.tensor;
    const LinearScheme whole = {.bits = made.scheme.bits,
                                .group_size = made.scheme.group_size,
                                .symmetric = made.scheme.symmetric,
                                .encoding = made.scheme.encoding,
                                .type = made.scheme.type,
                                .axis = made.scheme.axis,
                                .integer_zeros = made.scheme.integer_zeros,
                                .double_quantized = made.scheme.double_quantized,
                                .input = made.scheme.input};
    configuration = format.Configuration(
        {.method = "x",
         .options = json::object(
             {{"bits", whole.bits}, {"group_size", whole.group_size}, {"sym", whole.symmetric}}),
         .scheme = whole});
  }
  at::Tensor& operator[](const std::string& name) { return tensors_.at(name); }
  void Erase(const std::string& name) { tensors_.erase(name); }
  size_t size() const { return tensors_.size(); }

  absl::StatusOr<QuantizedWeight> Unpack() const {
    return format_.Unpack(
        configuration, "m", [&](absl::string_view name) -> absl::StatusOr<TensorView> {
          const auto found = tensors_.find(std::string(name));
          if (found == tensors_.end()) return absl::NotFoundError(name);
          return TensorView{*ToDType(found->second.scalar_type()), found->second.sizes().vec(),
                            TensorBytes(found->second)};
        });
  }

  json configuration;

 private:
  const Format& format_;
  std::map<std::string, at::Tensor> tensors_;
};

struct Case {
  const Format* format;
  const char* method;
  json options;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const bool sym : {true, false}) {
    for (const int64_t group : {32, -1}) {
      const json four = {{"bits", 4}, {"group_size", group}, {"sym", sym}};
      for (const Format* format : {AwqFormat(), CompressedTensorsFormat(), GptqFormat(),
                                   GptqV2Format(), HfFormat(), PytorchFormat()}) {
        cases.push_back({format, "rtn", four});
      }
      json eight = four;
      eight["bits"] = 8;
      cases.push_back({CompressedTensorsFormat(), "rtn", eight});
    }
  }
  for (const int bits : {2, 3, 4, 8}) {
    for (const int axis : {0, 1}) {
      for (const int64_t group : {16, -1}) {
        for (const char* dtype : {"float16", "float32"}) {
          cases.push_back(
              {HqqFormat(),
               "hqq",
               {{"bits", bits}, {"axis", axis}, {"group_size", group}, {"compute_dtype", dtype}}});
        }
      }
    }
  }
  for (const char* type : {"nf4", "fp4"}) {
    for (const bool nested : {false, true}) {
      for (const int64_t block : {32, 4096}) {
        const json options = {
            {"quant_type", type}, {"double_quant", nested}, {"block_size", block}};
        cases.push_back({BitsandbytesFormat(), "bnb_4bit", options});
        cases.push_back({HfFormat(), "bnb_4bit", options});
      }
    }
  }
  cases.push_back({BitsandbytesFormat(), "bnb_8bit", {{"threshold", 6.0}}});
  return cases;
}

TEST(FormatsTest, WhatIsPackedWasDescribedAndComesBack) {
  for (const Case& item : Cases()) {
    SCOPED_TRACE(item.format->Info().name + " " + item.method + " " + item.options.dump());
    const Made made = Make(item.method, item.options);
    ASSERT_TRUE(item.format->Supports(made.scheme).ok()) << item.format->Supports(made.scheme);
    Tensors tensors(*item.format, made);
    const std::vector<TensorInfo> described = item.format->Describe(made.scheme);
    EXPECT_EQ(tensors.size(), described.size());
    for (const TensorInfo& info : described) {
      EXPECT_EQ(tensors[info.name].sizes().vec(), info.shape) << info.name;
      EXPECT_EQ(*ToDType(tensors[info.name].scalar_type()), info.dtype) << info.name;
    }
    const auto back = tensors.Unpack();
    ASSERT_TRUE(back.ok()) << back.status();
    const bool dense = tensors.configuration.is_null();
    const at::ScalarType type = dense ? at::kHalf : at::kFloat;
    EXPECT_TRUE(Dequantize(*back, type)->equal(*Dequantize(made.weight, type)));
    if (!dense) EXPECT_EQ(InputOf(*back).kind, InputOf(made.weight).kind);
  }
}

TEST(FormatsTest, EveryTensorIsCheckedForTypeAndShape) {
  for (const Case& item : Cases()) {
    SCOPED_TRACE(item.format->Info().name + " " + item.method + " " + item.options.dump());
    const Made made = Make(item.method, item.options);
    for (const TensorInfo& info : item.format->Describe(made.scheme)) {
      const bool needed = info.name.find("channel_wise") == std::string::npos &&
                          info.name.find("optimize") == std::string::npos &&
                          info.name.find("round_zero") == std::string::npos &&
                          info.name.find("stat") == std::string::npos &&
                          info.name.find("offload") == std::string::npos &&
                          info.name.find("stores") == std::string::npos &&
                          info.name.find("dtype") == std::string::npos;
      if (!needed) continue;  // hqq: written for its reader, of no use here.
      Tensors wider(*item.format, made);
      wider[info.name] = at::zeros({3, 5, 2}, wider[info.name].scalar_type());
      EXPECT_EQ(wider.Unpack().status().code(), absl::StatusCode::kInvalidArgument) << info.name;
      Tensors other(*item.format, made);
      other[info.name] = at::zeros(other[info.name].sizes(), at::kDouble);
      EXPECT_EQ(other.Unpack().status().code(), absl::StatusCode::kInvalidArgument) << info.name;
    }
  }
}

TEST(FormatsTest, FormatsRefuseWhatTheyCannotHold) {
  const LinearScheme four = {
      .module = "m", .outputs = kN, .inputs = kK, .bits = 4, .group_size = 32};
  LinearScheme scattered = four;
  scattered.ordered_groups = false;
  LinearScheme three = four;
  three.bits = 3;
  LinearScheme floating = four;
  floating.integer_zeros = false;
  LinearScheme codebook = four;
  codebook.encoding = Encoding::kCodebook;
  for (const Format* format : {AwqFormat(), CompressedTensorsFormat()}) {
    for (const LinearScheme& scheme : {scattered, three, floating, codebook}) {
      EXPECT_THAT(std::string(format->Supports(scheme).message()), HasSubstr("format gptq holds"));
    }
  }
  EXPECT_TRUE(GptqFormat()->Supports(scattered).ok());
  EXPECT_FALSE(HqqFormat()->Supports(four).ok());
  EXPECT_FALSE(BitsandbytesFormat()->Supports(four).ok());
  const ConfigRequest request = {
      .method = "rtn",
      .options = json::object(),
      .exceptions = {{.module = "other", .scheme = {.module = "other", .group_size = 64}}},
      .scheme = four};
  EXPECT_THAT(std::string(AwqFormat()->CheckRequest(request).message()), HasSubstr("other"));
  EXPECT_TRUE(CompressedTensorsFormat()->CheckRequest(request).ok());
}

TEST(AwqFormatTest, WordsInterleaveChannels) {
  QuantizedLinear linear = {.bits = 4, .group_size = -1, .symmetric = false};
  linear.codes = at::arange(8, at::kByte).unsqueeze(1).repeat({1, 8}).contiguous();
  linear.scales = at::ones({8, 1}, at::kHalf);
  linear.zeros = at::full({8, 1}, 8, at::kByte);
  linear.group_index = OrderedGroups(8, 8);
  const auto packed = AwqFormat()->Pack("m", linear).value();
  // Half bytes, lowest first: outputs 0, 2, 4, 6, 1, 3, 5, 7.
  EXPECT_EQ(static_cast<uint32_t>(packed[0].tensor[0][0].item<int32_t>()), 0x75316420u);
  EXPECT_EQ(static_cast<uint32_t>(packed[1].tensor[0][0].item<int32_t>()), 0x88888888u);
}

TEST(BitsandbytesFormatTest, StateIsJsonThatSaysTheShape) {
  Tensors tensors(*BitsandbytesFormat(), Make("bnb_4bit", {{"double_quant", false}}));
  at::Tensor& state = tensors["m.weight.quant_state.bitsandbytes__nf4"];
  const std::string text(reinterpret_cast<const char*>(state.const_data_ptr<uint8_t>()),
                         static_cast<size_t>(state.numel()));
  EXPECT_THAT(text, HasSubstr("{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": "
                              "\"bfloat16\", \"shape\": [32, 64]}"));
  // The even weight is in the high half of a byte.
  const auto made = std::get<CodebookLinear>(Make("bnb_4bit", {}).weight);
  EXPECT_EQ(tensors["m.weight"][0][0].item<int64_t>(),
            made.codes[0][0].item<int64_t>() * 16 + made.codes[0][1].item<int64_t>());
  for (const char* damaged :
       {"", "{", "[1]", "{\"quant_type\": \"fp4\"}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 0, \"shape\": [32, 64]}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [32]}",
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": [-1, 64]}"}) {
    state = at::zeros({static_cast<int64_t>(std::strlen(damaged))}, at::kByte);
    std::memcpy(state.mutable_data_ptr<uint8_t>(), damaged, std::strlen(damaged));
    EXPECT_FALSE(tensors.Unpack().ok()) << damaged;
  }
}

TEST(HqqFormatTest, HostileFactsAreRefused) {
  const Made made = Make("hqq", {{"bits", 4}});
  for (const auto& [name, value] : std::vector<std::pair<std::string, int64_t>>{{"m.nbits", 5},
                                                                                {"m.nbits", -4},
                                                                                {"m.group_size", 0},
                                                                                {"m.group_size", 7},
                                                                                {"m.axis", 2}}) {
    Tensors tensors(*HqqFormat(), made);
    tensors[name].fill_(value);
    EXPECT_FALSE(tensors.Unpack().ok()) << name << " " << value;
  }
  for (const char* name : {"m.quant_scale", "m.quant_zero", "m.view_as_float"}) {
    Tensors tensors(*HqqFormat(), made);
    tensors[name].fill_(1);
    EXPECT_THAT(std::string(tensors.Unpack().status().message()), HasSubstr(name));
  }
  Tensors tensors(*HqqFormat(), made);
  tensors["m.shape"].fill_(int64_t{1} << 40);
  EXPECT_FALSE(tensors.Unpack().ok());
}

TEST(CompressedTensorsConfigTest, GroupsAreFoundByNamePatternAndClass) {
  const auto group = [](json targets, int bits) -> json {
    return {{"targets", targets},
            {"input_activations", nullptr},
            {"weights",
             {{"num_bits", bits}, {"type", "int"}, {"symmetric", true}, {"strategy", "channel"}}}};
  };
  json configuration = {
      {"config_groups", {{"a", group({"Linear"}, 4)}, {"b", group({"re:.*down_proj", "x.y"}, 8)}}}};
  EXPECT_EQ(ReadCompressedTensorsConfiguration(configuration, "l.0.up_proj")->bits, 4);
  EXPECT_EQ(ReadCompressedTensorsConfiguration(configuration, "l.0.down_proj")->bits, 8);
  EXPECT_EQ(ReadCompressedTensorsConfiguration(configuration, "x.y")->bits, 8);
  for (const auto& [field, value] : std::vector<std::pair<std::string, json>>{
           {"num_bits", 3}, {"type", "float"}, {"strategy", "block"}, {"num_bits", "4"}}) {
    json damaged = configuration;
    damaged["config_groups"]["a"]["weights"][field] = value;
    EXPECT_FALSE(ReadCompressedTensorsConfiguration(damaged, "l.0.up_proj").ok()) << field;
  }
  configuration["config_groups"]["a"]["input_activations"] = {{"num_bits", 8},
                                                              {"type", "int"},
                                                              {"symmetric", true},
                                                              {"strategy", "token"},
                                                              {"dynamic", true}};
  EXPECT_EQ(ReadCompressedTensorsConfiguration(configuration, "q")->input,
            InputKind::kInt8PerToken);
  for (const json& damaged : {json(), json::object(), json(1), json::array({1})}) {
    EXPECT_FALSE(ReadCompressedTensorsConfiguration({{"config_groups", damaged}}, "m").ok());
  }
}

TEST(CompressedTensorsFormatTest, EightBitInputs) {
  QuantizedLinear linear = {.bits = 8};
  at::Generator generator = at::detail::createCPUGenerator(3);
  linear.codes = at::randint(1, 256, {kN, kK}, generator).to(at::kByte);
  linear.scales = at::rand({kN, 1}, generator) + 0.1;
  linear.zeros = at::full({kN, 1}, 128, at::kByte);
  linear.group_index = OrderedGroups(kK, kK);
  for (const InputKind kind : {InputKind::kInt8PerToken, InputKind::kInt8PerTensor}) {
    linear.input = {.kind = kind, .scale = kind == InputKind::kInt8PerTensor ? 0.25f : 0.0f};
    const Made made = {SchemeOf("m", linear), linear};
    ASSERT_TRUE(CompressedTensorsFormat()->Supports(made.scheme).ok());
    Tensors tensors(*CompressedTensorsFormat(), made);
    EXPECT_EQ(tensors["m.weight"].scalar_type(), at::kChar);
    EXPECT_EQ(tensors["m.weight"][0][0].item<int64_t>(), linear.codes[0][0].item<int64_t>() - 128);
    const auto back = tensors.Unpack();
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(InputOf(*back).kind, kind);
    EXPECT_EQ(InputOf(*back).scale, linear.input.scale);
    EXPECT_TRUE(Dequantize(*back, at::kFloat)->equal(*linear.Dequantize(at::kFloat)));
    if (kind == InputKind::kInt8PerToken) continue;
    tensors["m.input_scale"].fill_(0);
    EXPECT_THAT(std::string(tensors.Unpack().status().message()), HasSubstr("input_scale"));
  }
}

TEST(CompressedTensorsFormatTest, FourBitInputsAndRotations) {
  QuantizedLinear linear = {.bits = 4, .group_size = 64};
  at::Generator generator = at::detail::createCPUGenerator(3);
  linear.codes = at::randint(0, 16, {kN, kK}, generator).to(at::kByte);
  linear.scales = at::rand({kN, kK / 64}, generator).to(at::kHalf) + 0.1;
  linear.zeros = at::full({kN, kK / 64}, 8, at::kByte);
  linear.group_index = OrderedGroups(kK, 64);
  linear.input.kind = InputKind::kInt4PerToken;
  const Format& format = *CompressedTensorsFormat();
  const Made made = {SchemeOf("m", linear), linear};
  ASSERT_TRUE(format.Supports(made.scheme).ok()) << format.Supports(made.scheme);
  Tensors tensors(format, made);
  json& configuration = tensors.configuration;
  configuration = format.Configuration({.method = "quarot",
                                        .options = json::object(),
                                        .scheme = made.scheme,
                                        .rotated_inputs = {{32, {"m"}}},
                                        .cache = {.rotation = 8, .bits = 4},
                                        .head_dim = 8});
  const auto cache = ParseCacheTransform(configuration, 8, "config.json");
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(*cache, (CacheTransform{.rotation = 8, .bits = 4}));
  EXPECT_EQ(*ReadInputRotation(configuration, "m", kK), 32);
  EXPECT_EQ(*ReadInputRotation(configuration, "n", kK), 0);
  const auto back = tensors.Unpack();
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(InputOf(*back).kind, InputKind::kInt4PerToken);
  EXPECT_EQ(InputOf(*back).rotation, 32);
  EXPECT_TRUE(Dequantize(*back, at::kFloat)->equal(*linear.Dequantize(at::kFloat)));
  json& group = configuration["transform_config"]["config_groups"]["R4_32"];
  for (const auto& [field, value] : std::vector<std::pair<std::string, json>>{
           {"type", "random-hadamard"}, {"head_dim", 24}, {"head_dim", 48}, {"randomize", true}}) {
    const json before = group;
    group[field] = value;
    EXPECT_TRUE(absl::IsUnimplemented(ReadInputRotation(configuration, "m", kK).status())) << field;
    EXPECT_FALSE(tensors.Unpack().ok());
    group = before;
  }
  group["apply"][0]["location"] = "output";
  EXPECT_TRUE(absl::IsUnimplemented(ReadInputRotation(configuration, "m", kK).status()));
  configuration["transform_config"]["config_groups"]["R3"]["apply"].erase(1);
  EXPECT_TRUE(
      absl::IsInvalidArgument(ParseCacheTransform(configuration, 8, "config.json").status()));
}

}  // namespace
}  // namespace quantd::engine
