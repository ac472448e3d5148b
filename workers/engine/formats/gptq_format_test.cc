// The GPTQ format against itself (every scheme survives the way through the packed tensors),
// against hand-made words, and against tensors that do not fit.
#include "workers/engine/formats/gptq_format.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/floor_divide.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <gmock/gmock.h>

#include <map>

#include "workers/engine/formats/format.h"
#include "workers/engine/formats/gptq_config.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kN = 32;
constexpr int64_t kK = 64;

QuantizedLinear RandomLinear(int bits, int64_t group) {
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(bits));
  const int64_t codes = int64_t{1} << bits;
  const int64_t columns = group == -1 ? kK : group;
  return {.bits = bits,
          .group_size = group,
          .symmetric = false,
          .codes = at::randint(0, codes, {kN, kK}, generator).to(at::kByte),
          .scales = (at::rand({kN, kK / columns}, generator) + 0.1).to(at::kHalf),
          .zeros = at::randint(1, codes, {kN, kK / columns}, generator).to(at::kByte),
          .group_index = at::floor_divide(at::arange(kK, at::kInt), columns).to(at::kInt)};
}

nlohmann::json Configuration(int bits, int64_t group) {
  return GptqFormat()->Configuration(
      {.method = "rtn",
       .options = {{"bits", bits}, {"group_size", group}},
       .scheme = {.bits = bits, .group_size = group, .symmetric = false}});
}

// The packed tensors as a file would hold them.
class Tensors {
 public:
  explicit Tensors(const QuantizedLinear& linear) {
    const std::vector<NamedTensor> packed = GptqFormat()->Pack("m", linear).value();
    for (const NamedTensor& tensor : packed) tensors_[tensor.name] = tensor.tensor;
  }
  at::Tensor& operator[](const std::string& name) { return tensors_[name]; }
  void Erase(const std::string& name) { tensors_.erase(name); }

  absl::StatusOr<QuantizedLinear> Unpack(const nlohmann::json& configuration) {
    const auto weight = GptqFormat()->Unpack(
        configuration, "m", [&](absl::string_view name) -> absl::StatusOr<TensorView> {
          const auto found = tensors_.find(std::string(name));
          if (found == tensors_.end()) return absl::NotFoundError(name);
          return TensorView{*ToDType(found->second.scalar_type()), found->second.sizes().vec(),
                            TensorBytes(found->second)};
        });
    if (!weight.ok()) return weight.status();
    return std::get<QuantizedLinear>(*weight);
  }

 private:
  std::map<std::string, at::Tensor> tensors_;
};

TEST(GptqFormatTest, RoundTrip) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t group : {32, -1}) {
      const QuantizedLinear linear = RandomLinear(bits, group);
      Tensors tensors(linear);
      for (const TensorInfo& info : GptqFormat()->Describe({"m", kN, kK, bits, group})) {
        EXPECT_EQ(tensors[info.name].sizes().vec(), info.shape) << info.name;
      }
      const auto back = tensors.Unpack(Configuration(bits, group));
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_TRUE(back->codes.equal(linear.codes));
      EXPECT_TRUE(back->zeros.equal(linear.zeros));
      EXPECT_TRUE(back->scales.equal(linear.scales));
      EXPECT_TRUE(back->group_index.equal(linear.group_index));
    }
  }
}

TEST(GptqFormatTest, SymmetricZeroWordsAndVersionTwo) {
  QuantizedLinear linear = RandomLinear(4, 32);
  linear.zeros.fill_(8);
  Tensors tensors(linear);
  EXPECT_EQ(tensors["m.qzeros"][0][0].item<int32_t>(), 0x77777777);
  nlohmann::json configuration = Configuration(4, 32);
  configuration["checkpoint_format"] = "gptq_v2";
  EXPECT_TRUE((tensors.Unpack(configuration)->zeros == 7).all().item<bool>());
  configuration["checkpoint_format"] = "marlin";
  EXPECT_THAT(std::string(tensors.Unpack(configuration).status().message()), HasSubstr("marlin"));
}

TEST(GptqFormatTest, RefusesTensorsThatDoNotFit) {
  const QuantizedLinear linear = RandomLinear(4, 32);
  const nlohmann::json configuration = Configuration(4, 32);
  const auto broken = [&](const std::string& name, const at::Tensor& tensor) {
    Tensors tensors(linear);
    tensors[name] = tensor;
    const absl::Status status = tensors.Unpack(configuration).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name << " " << status;
  };
  broken("m.qweight", at::zeros({8}, at::kInt));
  broken("m.qweight", at::zeros({8, kN}, at::kLong));
  broken("m.qweight", at::zeros({8, kN - 1}, at::kInt));
  broken("m.qweight", at::zeros({0, kN}, at::kInt));
  broken("m.qzeros", at::zeros({2, kN}, at::kInt));
  broken("m.scales", at::zeros({2, kN + 1}, at::kHalf));
  broken("m.scales", at::zeros({2, kN}, at::kInt));
  broken("m.scales", at::full({2, kN}, 1e9, at::kFloat));
  broken("m.g_idx", at::zeros({kK + 1}, at::kInt));
  broken("m.g_idx", at::full({kK}, 2, at::kInt));
  broken("m.g_idx", at::full({kK}, -1, at::kInt));
  Tensors tensors(linear);
  tensors.Erase("m.qzeros");
  EXPECT_EQ(tensors.Unpack(configuration).status().code(), absl::StatusCode::kNotFound);
}

TEST(GptqFormatTest, WithoutGroupIndexGroupsAreInOrder) {
  const QuantizedLinear linear = RandomLinear(4, 32);
  Tensors tensors(linear);
  tensors.Erase("m.g_idx");
  EXPECT_TRUE(tensors.Unpack(Configuration(4, 32))->group_index.equal(linear.group_index));
  // A group size that contradicts the scales.
  EXPECT_FALSE(tensors.Unpack(Configuration(4, 8)).ok());
}

TEST(GptqFormatTest, RefusesShapesItCannotPack) {
  EXPECT_TRUE(GptqFormat()->Supports({"m", 64, 64, 3, 32}).ok());
  EXPECT_THAT(std::string(GptqFormat()->Supports({"m", 64, 48, 3, -1}).message()),
              HasSubstr("multiple of 32"));
  EXPECT_THAT(std::string(GptqFormat()->Supports({"m", 12, 64, 4, -1}).message()),
              HasSubstr("multiple of 8"));
}

TEST(GptqConfigTest, DynamicSaysWhatDiffers) {
  const nlohmann::json options = {{"bits", 4}, {"group_size", 128}, {"sym", true}};
  const LinearScheme scheme = {.bits = 4, .group_size = 128};
  const nlohmann::json configuration = GptqFormat()->Configuration(
      {.method = "gptq",
       .options = options,
       .head_quantized = false,
       .exceptions = {{.module = "model.layers.1.mlp.down_proj",
                       .skipped = false,
                       .options = options,
                       .scheme = {.bits = 8, .group_size = 128}},
                      {.module = "model.layers.0.mlp.up_proj", .skipped = true}},
       .scheme = scheme});
  EXPECT_TRUE(configuration["dynamic"].contains("-:^model\\.layers\\.0\\.mlp\\.up_proj$"));
  EXPECT_EQ(ReadGptqConfiguration(configuration, "model.layers.1.mlp.down_proj")->bits, 8);
  EXPECT_EQ(ReadGptqConfiguration(configuration, "model.layers.11.mlp.down_proj")->bits, 4);
  for (const auto& [field, value] :
       std::map<std::string, nlohmann::json>{{"bits", 5}, {"bits", "4"}, {"group_size", 0}}) {
    nlohmann::json damaged = configuration;
    damaged[field] = value;
    EXPECT_THAT(std::string(ReadGptqConfiguration(damaged, "m").status().message()),
                HasSubstr(field));
  }
  nlohmann::json damaged = configuration;
  damaged["dynamic"] = {{"(", {{"bits", 4}}}};
  EXPECT_FALSE(ReadGptqConfiguration(damaged, "m").ok());
}

}  // namespace
}  // namespace quantd::engine
