// What a GPU's kernels do in one pass is what libtorch's operators do on the CPU.
#include "workers/engine/tensor/kernels.h"

#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "workers/engine/models/activation.h"
#include "workers/engine/models/attention.h"
#include "workers/engine/models/branches.h"
#include "workers/engine/models/input_quantization.h"
#include "workers/engine/models/norm.h"
#include "workers/engine/models/rope.h"
#include "workers/engine/models/test_util.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

class ModelKernels : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> gpu = SelectDevice("cuda:0");
    if (!gpu.ok()) GTEST_SKIP() << gpu.status();
    if (!KernelDevice(*gpu).is_cuda()) GTEST_SKIP() << "no kernels for the GPU";
    gpu_ = *gpu;
    EXPECT_TRUE(SetDeterministic(kTestSeed).ok());
  }
  at::Device gpu_ = at::kCPU;
};

// The same products and sums, rounded alike: the same bits, also where only a part of a head is
// turned and where sequences start at different positions.
TEST_P(ModelKernels, RopeGivesTheSameBits) {
  const at::ScalarType type = GetParam();
  struct Sizes {
    int64_t batch, tokens, heads, dim, turned;
  };
  for (const Sizes& sizes : {Sizes{2, 7, 4, 64, 64}, Sizes{1, 1, 8, 128, 128},
                             Sizes{3, 5, 2, 80, 32}, Sizes{2, 3, 2, 12, 12}}) {
    const at::Tensor x =
        at::randn({sizes.batch, sizes.tokens, sizes.heads, sizes.dim}).to(type).transpose(1, 2);
    for (const bool own_rows : {false, true}) {
      std::vector<int64_t> shape = {sizes.tokens, sizes.turned};
      if (own_rows) shape.insert(shape.begin(), sizes.batch);
      const at::Tensor angles = at::randn(shape) * 3;
      const RopeTable::Rows rows = {angles.cos().to(type), angles.sin().to(type)};
      const at::Tensor expected = ApplyRope(x, rows);
      const at::Tensor turned = ApplyRope(x.to(gpu_), {rows.cos.to(gpu_), rows.sin.to(gpu_)});
      EXPECT_TRUE(turned.to(at::kCPU).equal(expected)) << sizes.dim << " " << sizes.turned;
    }
  }
}

TEST_P(ModelKernels, NormsAgree) {
  const at::ScalarType type = GetParam();
  for (const NormKind kind : {NormKind::kRms, NormKind::kRmsPlusOne}) {
    for (const int64_t columns : {64, 96, 2048, 5120}) {
      const at::Tensor x = (at::randn({3, 5, columns}) * 4).to(type);
      const Linear norm = {.weight = (at::randn({columns}) * 0.3 + 1).to(type)};
      const Linear on_gpu = {.weight = norm.weight.to(gpu_)};
      const at::Tensor expected = ApplyNorm(x, norm, kind, 1e-5).to(at::kDouble);
      const at::Tensor got = ApplyNorm(x.to(gpu_), on_gpu, kind, 1e-5).to(at::kCPU, at::kDouble);
      // Both are within this of the exact y (norm_rows.h; libtorch's sums are no worse than one by
      // one), and round twice at most.
      const double off = 2 * (static_cast<double>(columns) + 24) * 0x1p-24;
      const double unit = type == at::kHalf ? 0x1p-11 : 0x1p-8;
      const at::Tensor bound = expected.abs() * (off + 4 * unit * (1 + off) * 1.01) + 0x1p-23;
      EXPECT_TRUE(((got - expected).abs() <= bound).all().item<bool>()) << columns;
    }
  }
}

TEST_P(ModelKernels, GatesAgree) {
  const at::ScalarType type = GetParam();
  for (const char* name : {"silu", "gelu", "gelu_new", "relu"}) {
    const absl::StatusOr<Activation> activation = FindActivation(name);
    ASSERT_TRUE(activation.ok());
    // Both halves of one product, and parts whose rows no kernel takes.
    for (const int64_t columns : {64, 1032, 20}) {
      const at::Tensor both = (at::randn({3, 5, 2 * columns}) * 4).to(type);
      const at::Tensor gate = both.narrow(-1, 0, columns), up = both.narrow(-1, columns, columns);
      const at::Tensor there = both.to(gpu_);
      const at::Tensor expected = activation->Gate(gate, up).to(at::kDouble);
      const at::Tensor got =
          activation->Gate(there.narrow(-1, 0, columns), there.narrow(-1, columns, columns))
              .to(at::kCPU, at::kDouble);
      const double unit = type == at::kHalf ? 0x1p-11 : 0x1p-8;
      // Each f is within 2^-21 |gate| (kernels/activation.h), and each side rounds twice.
      const at::Tensor bound = (gate * up).to(at::kDouble).abs() * 0x1p-20 +
                               expected.abs() * 4 * unit * 1.01 + (up.abs() + 1) * 0x1p-23;
      EXPECT_TRUE(((got - expected).abs() <= bound).all().item<bool>()) << name << " " << columns;
    }
  }
}

// Eight bits a token round as the operators do, but where a quotient lies within rounding of a
// half.
TEST_P(ModelKernels, InputsRoundAlike) {
  const at::ScalarType type = GetParam();
  const at::Tensor x = (at::randn({3, 7, 256}) * 3).to(type);
  const InputQuantization kind = {.kind = InputKind::kInt8PerToken};
  const at::Tensor expected = RoundInput(x, kind).to(at::kDouble);
  const at::Tensor got = RoundInput(x.to(gpu_), kind).to(at::kCPU, at::kDouble);
  const at::Tensor step = x.to(at::kDouble).abs().amax(-1, true) / 127;
  const double unit = type == at::kHalf ? 0x1p-11 : 0x1p-8;
  const at::Tensor bound = step * 1.01 + expected.abs() * 2 * unit * 1.01;
  EXPECT_TRUE(((got - expected).abs() <= bound).all().item<bool>());
  EXPECT_LE((got != expected).sum().item<int64_t>(), x.numel() / 500);
}

// In one pass behind a norm or a gate, or in one of its own: the same codes and scales.
TEST_P(ModelKernels, Int8InputsAreThoseOfTheNumbers) {
  const at::ScalarType type = GetParam();
  const absl::StatusOr<Activation> silu = FindActivation("silu");
  ASSERT_TRUE(silu.ok());
  for (const InputQuantization& kind :
       {InputQuantization{.kind = InputKind::kInt8PerToken},
        InputQuantization{.kind = InputKind::kInt8PerTensor, .scale = 0.02f}}) {
    const auto expect_same = [&](const Int8Input& got, const at::Tensor& numbers) {
      const Int8Input expected = QuantizeInput(numbers, kind);
      ASSERT_TRUE(got.codes.defined());
      EXPECT_EQ(got.codes.sizes(), numbers.sizes());
      EXPECT_TRUE(got.codes.equal(expected.codes));
      EXPECT_TRUE(got.scales.equal(expected.scales));
    };
    const at::Tensor x = (at::randn({3, 5, 2048}) * 4).to(gpu_, type);
    const Linear norm = {.weight = (at::randn({2048}) * 0.3 + 1).to(gpu_, type)};
    expect_same(NormToInt8(x, norm, NormKind::kRms, 1e-5, kind),
                ApplyNorm(x, norm, NormKind::kRms, 1e-5));
    const at::Tensor gate = x.narrow(-1, 0, 1024), up = x.narrow(-1, 1024, 1024);
    expect_same(silu->GateToInt8(gate, up, kind), silu->Gate(gate, up));
    // Codes times scales are within rounding of what the operators make of the numbers.
    const Int8Input int8 = QuantizeInput(x, kind);
    const at::Tensor wide = int8.codes.to(at::kDouble) * int8.scales.to(at::kDouble).unsqueeze(-1);
    const at::Tensor rounded = RoundInput(x.to(at::kCPU, at::kFloat), kind).to(gpu_, at::kDouble);
    const at::Tensor off = (wide - rounded).abs() / int8.scales.to(at::kDouble).unsqueeze(-1);
    EXPECT_LE(off.max().item<double>(), 1.01);
    EXPECT_LE((off > 0.01).sum().item<int64_t>(), x.numel() / 500);
    EXPECT_FALSE(NormToInt8(x, norm, NormKind::kLayer, 1e-5, kind).codes.defined());
  }
}

// A mask with and without groups, through whichever kernel libtorch takes.
TEST_P(ModelKernels, MaskedAttentionAgrees) {
  const at::ScalarType type = GetParam();
  const Branches branches({{.trunk = 9, .branches = {4, 2}}, {.trunk = 3, .branches = {6, 1}}}, 16,
                          at::kCPU);
  for (const int64_t kv_heads : {4, 2}) {
    const at::Tensor q = at::randn({2, 4, 16, 64}).to(type);
    const at::Tensor k = at::randn({2, kv_heads, 16, 64}).to(type);
    const at::Tensor v = at::randn({2, kv_heads, 16, 64}).to(type);
    AttentionOptions options;
    options.visible = branches.Visible(0);
    const at::Tensor expected =
        Attend(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), options);
    options.visible = options.visible.to(gpu_);
    const at::Tensor got =
        Attend(q.to(gpu_), k.to(gpu_), v.to(gpu_), options).to(at::kCPU, at::kDouble);
    // Weights are rounded to the type before they are summed, the result once.
    const double unit = type == at::kHalf ? 0x1p-11 : 0x1p-8;
    const double largest = v.to(at::kDouble).abs().max().item<double>();
    EXPECT_LE((got - expected).abs().max().item<double>(), 4 * unit * largest) << kv_heads;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, ModelKernels, testing::Values(at::kHalf, at::kBFloat16));

}  // namespace
}  // namespace quantd::engine
