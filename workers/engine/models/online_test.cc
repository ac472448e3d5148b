// What is done to activations while a model runs: rotations that change nothing, codes of few bits
// that change what they must.
#include <ATen/ops/eye.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "workers/engine/models/hadamard.h"
#include "workers/engine/models/head_codes.h"
#include "workers/engine/models/input_quantization.h"
#include "workers/engine/models/model.h"
#include "workers/engine/models/online_rotation.h"
#include "workers/engine/models/test_util.h"
#include "workers/engine/tensor/aten.h"
#include "workers/engine/tensor/kernels.h"

namespace quantd::engine {
namespace {

TEST(OnlineRotation, IsSylvestersMatrixInBlocks) {
  EXPECT_EQ(OnlineBlock(8192), 8192);
  EXPECT_EQ(OnlineBlock(14336), 2048);
  EXPECT_EQ(OnlineBlock(11), 1);
  // [[H, H], [H, -H]] from [1] on.
  at::Tensor matrix = at::ones({1, 1}, at::kDouble);
  for (int64_t order = 1; order <= 512; order *= 2) {
    const at::Tensor x = at::randn({3, 2, 2 * order}, at::kDouble);
    const at::Tensor blocks = x.reshape({3, 2, 2, order});
    const at::Tensor expected = at::matmul(blocks, matrix).reshape(x.sizes());
    const at::Tensor turned = RotateOnline(x, order);
    EXPECT_TRUE(at::allclose(turned, expected / std::sqrt(static_cast<double>(order)))) << order;
    EXPECT_TRUE(at::allclose(RotateOnline(turned, order), x)) << order;
    matrix = at::cat({at::cat({matrix, matrix}, 1), at::cat({matrix, -matrix}, 1)}, 0);
  }
  const at::Tensor half = at::randn({5, 64}).to(at::kBFloat16);
  EXPECT_EQ(RotateOnline(half, 64).scalar_type(), at::kBFloat16);
}

// Where the tests' 16-bit tensors go.
std::vector<at::Device> Places() {
  std::vector<at::Device> places = {at::kCPU};
  const absl::StatusOr<at::Device> gpu = SelectDevice("cuda:0");
  if (gpu.ok() && KernelDevice(*gpu).is_cuda()) places.push_back(*gpu);
  return places;
}

struct Turned {
  int64_t rows, width, block;
};

// The kernels and libtorch against methods' rotation of weights in float64.
TEST(OnlineRotation, EveryWayIsTheOneRotationWithinItsBound) {
  // First of all: libtorch's CUDA half cannot be opened any more once something was computed.
  const std::vector<at::Device> places = Places();
  EXPECT_TRUE(SetDeterministic(kTestSeed).ok());
  for (const at::Device place : places) {
    for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kFloat}) {
      // Of heads, of widths that are no power of two, of as many columns as there are; 12 numbers
      // have no kernel.
      for (const Turned& sizes : {Turned{7, 64, 64},
                                  {32, 128, 128},
                                  {3, 192, 64},
                                  {2, 14336, 2048},
                                  {3, 8192, 8192},
                                  {1, 16384, 16384},
                                  {3, 24, 8},
                                  {2, 20, 4},
                                  {1, 12, 4},
                                  {4, 6, 2}}) {
        SCOPED_TRACE(absl::StrCat(place.str(), " ", c10::toString(type), " ", sizes.rows, " ",
                                  sizes.width, " ", sizes.block));
        // Not contiguous, as queries are.
        const at::Tensor x =
            (at::randn({sizes.width, sizes.rows}) * 3).to(type).to(place).transpose(0, 1);
        const at::Tensor turned = RotateOnline(x, sizes.block);
        EXPECT_EQ(turned.scalar_type(), type);
        EXPECT_EQ(turned.device(), place);
        const at::Tensor wide = x.to(at::kCPU, at::kDouble).contiguous();
        const at::Tensor exact = Rotation::Make(sizes.block, 0, /*random_signs=*/false).Apply(wide);
        // hadamard_rows.h; libtorch adds up to 128 numbers twice, in any order.
        const double steps =
            type == at::kFloat ? 2.0 * 128 + 3 : std::log2(static_cast<double>(sizes.block)) + 3;
        const double unit = type == at::kHalf ? 0x1p-11 : type == at::kBFloat16 ? 0x1p-8 : 0x1p-24;
        const at::Tensor sums = wide.abs()
                                    .view({-1, sizes.block})
                                    .sum(-1, /*keepdim=*/true)
                                    .expand({-1, sizes.block})
                                    .reshape(wide.sizes());
        const at::Tensor error =
            sums * (steps * 0x1p-24 / std::sqrt(static_cast<double>(sizes.block)));
        // Rounded once to the type; numbers below its normal ones are 2^-25 off at most.
        const at::Tensor bound = error + (exact.abs() + error).mul(unit).clamp_min(0x1p-25);
        const at::Tensor off = (turned.to(at::kCPU, at::kDouble) - exact).abs();
        EXPECT_TRUE((off <= bound).all().item<bool>()) << (off / bound).max().item<double>();
      }
    }
  }
}

TEST(HeadCodes, HoldValuesToHalfAStep) {
  for (const int bits : {4, 8}) {
    const at::Tensor heads = at::randn({2, 3, 5, 16}) * 3 + 1;
    const HeadCodes made = EncodeHeads(heads, bits);
    EXPECT_EQ(made.codes.size(-1), 16 * bits / 8);
    const at::Tensor back = DecodeHeads(made, bits, at::kFloat);
    // Half a step, and the noise of two float32 operations on numbers of about 10.
    EXPECT_TRUE(((back - heads).abs() <= made.scale * 0.5 + 1e-5).all().item<bool>()) << bits;
    EXPECT_TRUE(at::allclose(back.amin(-1), heads.amin(-1)));
    const at::Tensor flat = at::full({1, 4}, 2.5);
    EXPECT_TRUE(DecodeHeads(EncodeHeads(flat, bits), bits, at::kFloat).equal(flat));
  }
}

TEST(RoundInput, FourBitsATokenHaveFifteenLevels) {
  const at::Tensor x = at::tensor({-7.0f, 3.4f, 0.6f, 7.0f, 0.0f, 0.0f, 0.0f, 0.0f}).view({2, 4});
  const at::Tensor rounded = RoundInput(x, {.kind = InputKind::kInt4PerToken});
  EXPECT_TRUE(at::allclose(
      rounded, at::tensor({-7.0f, 3.0f, 1.0f, 7.0f, 0.0f, 0.0f, 0.0f, 0.0f}).view({2, 4})));
}

TEST(CacheTransform, RotationChangesNothingAndCodesAreTheSameWithACacheAndWithout) {
  for (const Architecture& row : Architectures()) {
    SCOPED_TRACE(std::string(row.name));
    ModelConfig config = SmallConfig(row.name);
    const RandomWeights source(config, row);
    const at::Tensor ids = Ids(2, 12);
    const at::Tensor plain = *Model::Load(config, source, {})->Forward(ids);
    config.cache.rotation = OnlineBlock(config.head_dim);
    EXPECT_TRUE(Close(*Model::Load(config, source, {})->Forward(ids), plain));
    double last = 0;
    for (const int bits : {8, 4}) {
      config.cache.bits = bits;
      const auto model = Model::Load(config, source, {});
      const at::Tensor whole = *model->Forward(ids);
      const double error = (whole - plain).abs().mean().item<double>();
      EXPECT_GT(error, last);
      last = error;
      KvCache cache(config.layers);
      const at::Tensor first = *model->Forward(ids.narrow(1, 0, 7), &cache);
      const at::Tensor rest = *model->Forward(ids.narrow(1, 7, 5), &cache);
      // A key that float32 noise moves across a border between codes is off by a step.
      EXPECT_LT((at::cat({first, rest}, 1) - whole).abs().mean().item<double>(), error / 4);
      // Two codes of head_dim, with a scale and a smallest value each, for at least 12 positions.
      EXPECT_LT(cache.size_bytes(), config.layers * 2 * 2 * config.kv_heads * 64 *
                                        (config.head_dim * bits / 8 + 8 + 1));
    }
  }
}

}  // namespace
}  // namespace quantd::engine
