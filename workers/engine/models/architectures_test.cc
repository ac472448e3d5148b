// What single architectures bring with them, checked without a reference: experts and their
// routing, GPT-2's storage, folds, rotary scalings, soft caps. tests/conformance/logits_oracle.py
// holds the rest against transformers.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/test_util.h"
#include "workers/engine/models/attention.h"
#include "workers/engine/models/folds.h"
#include "workers/engine/models/model.h"
#include "workers/engine/models/test_util.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

class Recorder : public LinearHook {
 public:
  absl::Status OnInput(absl::string_view module, const at::Tensor& input) override {
    inputs[std::string(module)] = input;
    return absl::OkStatus();
  }
  std::map<std::string, at::Tensor> inputs;
};

// The layers that a fold scales, as the decoder computes them, after the fold with random scales.
void ApplyFold(const Fold& fold, const Architecture& row, Block& block) {
  const int64_t rows = block.linear(fold.previous).weight.size(0);
  const at::Tensor scale_of_row = at::randn({rows}).exp();
  const at::Tensor columns = at::tensor(fold.row_of_column, at::kLong);
  const at::Tensor scales = scale_of_row.index_select(0, columns);
  at::Tensor divisor = at::ones({rows});
  divisor.index_put_({columns}, scales);
  Linear& previous = block.linear(fold.previous);
  if (fold.previous_is_norm && row.norm == NormKind::kRmsPlusOne) {
    previous.weight = (previous.weight + 1) / divisor - 1;
  } else if (fold.previous_is_norm) {
    previous.weight = previous.weight / divisor;
  } else {
    previous.weight = previous.weight / divisor.unsqueeze(1);
  }
  if (previous.bias.defined()) previous.bias = previous.bias / divisor;
  for (const auto* list : {&fold.linears, &fold.others}) {
    for (const std::string& module : *list) {
      block.linear(module).weight = block.linear(module).weight * scales;
    }
  }
}

TEST(Folds, LeaveEveryBlockWhatItComputes) {
  for (const Architecture& row : Architectures()) {
    for (const bool grouped : {true, false}) {
      ModelConfig config = SmallConfig(row.name);
      if (!grouped) config.kv_heads = config.heads;
      const RandomWeights source(config, row);
      const auto decoder = Decoder::Create(config, source, {});
      ASSERT_TRUE(decoder.ok()) << decoder.status();
      auto block = decoder->LoadBlock(0, source);
      ASSERT_TRUE(block.ok());
      const at::Tensor hidden = *decoder->Embed(Ids(2, 9));
      const at::Tensor before = *decoder->Forward(*block, hidden);
      const std::vector<Fold> folds = Folds(config, row, 0);
      EXPECT_GE(folds.size(), 2u);
      std::set<std::string> folded;
      for (const Fold& fold : folds) {
        SCOPED_TRACE(absl::StrCat(row.name, " ", fold.previous));
        folded.insert(fold.linears.begin(), fold.linears.end());
        for (const std::string& module : fold.linears) {
          EXPECT_EQ(block->linear(module).weight.size(1), fold.row_of_column.size());
        }
        ApplyFold(fold, row, *block);
        EXPECT_TRUE(Close(*decoder->Forward(*block, hidden), before));
        const std::string& part = fold.inspected;
        EXPECT_TRUE(part.empty() || part == row.attention || part == row.mlp || block->Has(part))
            << part;
      }
      for (const LinearShape& linear : Linears(config, row, 0)) {
        const bool behind_plain_activation = row.gate.empty() && linear.module == row.down;
        EXPECT_EQ(folded.contains(linear.module), !behind_plain_activation) << linear.module;
      }
    }
  }
}

TEST(Decoder, PartsOfABlockAreThoseOfTheWhole) {
  for (const Architecture& row : Architectures()) {
    SCOPED_TRACE(std::string(row.name));
    const ModelConfig config = SmallConfig(row.name);
    const RandomWeights source(config, row);
    const auto decoder = Decoder::Create(config, source, {});
    ASSERT_TRUE(decoder.ok());
    const auto block = decoder->LoadBlock(0, source);
    const at::Tensor hidden = *decoder->Embed(Ids(1, 7));
    Recorder seen;
    ASSERT_TRUE(decoder->Forward(*block, hidden, {.hook = &seen}).ok());
    const std::string first(row.qkv.empty() ? row.q : row.qkv), last(row.output);
    const auto attention = decoder->ForwardPart(*block, row.attention, seen.inputs[first]);
    ASSERT_TRUE(attention.ok()) << attention.status();
    EXPECT_TRUE(Close(*attention, *decoder->ForwardPart(*block, last, seen.inputs[last])));
    EXPECT_THAT(std::string(decoder->ForwardPart(*block, "nothing", hidden).status().message()),
                HasSubstr("has no part nothing"));
  }
}

TEST(Experts, EachSeesTheTokensRoutedToItAndAddsItsShare) {
  const ModelConfig config = SmallConfig("MixtralForCausalLM");
  const Architecture& row = Row(config);
  const RandomWeights source(config, row);
  const auto decoder = Decoder::Create(config, source, {});
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  auto block = decoder->LoadBlock(0, source);
  ASSERT_TRUE(block.ok());
  const at::Tensor input = at::randn({2, 5, config.hidden_size});
  // The slow way: every token by itself, every expert of it in turn.
  const auto expert = [&](int64_t e, const at::Tensor& x) {
    const std::string prefix = absl::StrCat("block_sparse_moe.experts.", e, ".");
    const auto weight = [&](const char* name) { return block->linear(prefix + name).weight; };
    return at::matmul(weight("w2"),
                      at::silu(at::matmul(weight("w1"), x)) * at::matmul(weight("w3"), x));
  };
  std::vector<int64_t> routed(static_cast<size_t>(config.experts), 0);
  at::Tensor expected = at::zeros({10, config.hidden_size});
  const at::Tensor tokens = input.view({10, -1});
  for (int64_t t = 0; t < 10; ++t) {
    const at::Tensor scores =
        at::matmul(block->linear("block_sparse_moe.gate").weight, tokens[t]).exp();
    const at::Tensor order = scores.argsort(-1, /*descending=*/true);
    const int64_t one = order[0].item<int64_t>(), two = order[1].item<int64_t>();
    const at::Tensor sum = scores[one] + scores[two];
    expected[t] =
        expert(one, tokens[t]) * (scores[one] / sum) + expert(two, tokens[t]) * (scores[two] / sum);
    ++routed[one];
    ++routed[two];
  }
  EXPECT_TRUE(Close(*decoder->ForwardPart(*block, row.mlp, input), expected.view_as(input)));
  Recorder seen;
  ASSERT_TRUE(decoder->Forward(*block, input, {.hook = &seen}).ok());
  int64_t total = 0;
  for (const auto& [module, x] : seen.inputs) {
    if (absl::EndsWith(module, "w2")) total += x.size(0);
  }
  EXPECT_EQ(total, 2 * 10);
  // Without any token an expert is not run and not shown.
  at::Tensor& router = block->linear("block_sparse_moe.gate").weight;
  router[0].fill_(0);
  router[1].copy_(router[2]);
  const at::Tensor ones = at::ones({1, 3, config.hidden_size});
  router.copy_(at::tensor({-1.0, 1.0, 2.0}).unsqueeze(1).expand_as(router));
  block->linear("input_layernorm").weight.zero_();  // Attention adds nothing:
  block->linear("post_attention_layernorm").weight.fill_(1);
  seen.inputs.clear();
  ASSERT_TRUE(decoder->Forward(*block, ones, {.hook = &seen}).ok());
  EXPECT_FALSE(seen.inputs.contains("block_sparse_moe.experts.0.w1"));
  EXPECT_TRUE(seen.inputs.contains("block_sparse_moe.experts.2.w2"));
}

TEST(Experts, DenseLayersBetweenHaveAPlainMlp) {
  ModelConfig config = SmallConfig("Qwen3MoeForCausalLM");
  config.layer_is_dense = {true, false};
  const Architecture& row = Row(config);
  EXPECT_EQ(Linears(config, row, 0).back().module, "mlp.down_proj");
  EXPECT_EQ(Linears(config, row, 0).back().in, config.intermediate_size);
  EXPECT_EQ(Linears(config, row, 1).back().module, "mlp.experts.2.down_proj");
  EXPECT_EQ(Linears(config, row, 1).back().expert, 2);
  const RandomWeights source(config, row);
  const auto model = Model::Load(config, source, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(model->Logits(Ids(1, 4)).ok());
}

TEST(Gpt2, FilesLieTransposedAndOldOnesLackThePrefix) {
  ModelConfig config = SmallConfig("GPT2LMHeadModel");
  config.kv_heads = config.heads;
  config.head_dim = config.hidden_size / config.heads;
  config.tie_word_embeddings = true;
  const Architecture& row = Row(config);
  const RandomWeights memory(config, row);
  const auto expected = Model::Load(config, memory, {});
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const bool old : {false, true}) {
    const TempFolder folder;
    folder.Add("config.json", R"({"model_type": "gpt2", "vocab_size": 50, "n_embd": 32,
        "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64,
        "activation_function": "silu", "layer_norm_epsilon": 1e-6})");
    std::map<std::string, at::Tensor> tensors;
    for (const ExpectedTensor& tensor : ExpectedTensors(config, row)) {
      const at::Tensor value = memory.tensors.at(tensor.name);
      const bool lies_transposed =
          IsStoredTransposed(row, {tensor.name, DType::kF32, tensor.shape});
      const std::string name =
          old ? tensor.name.substr(std::string("transformer.").size()) : tensor.name;
      tensors[name] = (lies_transposed ? value.t() : value).contiguous();
    }
    tensors[old ? "h.0.attn.bias" : "transformer.h.0.attn.bias"] = at::ones({1, 1, 4, 4});
    std::vector<TensorInfo> infos;
    for (const auto& [name, tensor] : tensors) infos.push_back(*DescribeTensor(name, tensor));
    auto writer = SafetensorsWriter::Create(folder.path() + "/model.safetensors", infos);
    ASSERT_TRUE(writer.ok());
    for (const auto& [name, tensor] : tensors) {
      ASSERT_TRUE(WriteTensor(**writer, name, tensor).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
    const auto checkpoint = Checkpoint::Open(folder.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto model = Model::Load((*checkpoint)->config(), CheckpointWeights(*checkpoint), {});
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_TRUE(model->Logits(Ids(2, 5))->equal(*expected->Logits(Ids(2, 5))));
    const auto beyond = model->Logits(Ids(1, 65));
    EXPECT_THAT(std::string(beyond.status().message()), HasSubstr("position 64 is behind"));
  }
}

TEST(Gemma, CapsBoundLogitsAndLeaveSmallOnes) {
  ModelConfig config = SmallConfig("Gemma2ForCausalLM");
  const RandomWeights source(config, Row(config));
  const at::Tensor plain = *Model::Load(config, source, {})->Logits(Ids(1, 6));
  config.final_softcap = 2;
  const at::Tensor capped = *Model::Load(config, source, {})->Logits(Ids(1, 6));
  EXPECT_LE(capped.abs().max().item<float>(), 2.0f);
  EXPECT_TRUE(Close(capped, (plain / 2).tanh() * 2));
}

TEST(Attend, ChunksWindowsAndCapsAgreeWithTheObviousWay) {
  ASSERT_TRUE(SetDeterministic(kTestSeed).ok());
  SetThreads(1);
  const int64_t length = 1100;  // Three chunks.
  const at::Tensor q = at::randn({2, 4, length, 8}), k = at::randn({2, 2, length, 8}),
                   v = at::randn({2, 2, length, 8});
  const at::Tensor wide_k = k.repeat_interleave(2, 1), wide_v = v.repeat_interleave(2, 1);
  const at::Tensor key = at::arange(length), query = at::arange(length).unsqueeze(1);
  const std::vector<int64_t> starts = {0, 7};
  for (const int64_t window : {0, 3, 600}) {
    for (const double cap : {0.0, 1.5}) {
      for (const bool padded : {false, true}) {
        at::Tensor visible = (key <= query).expand({2, 1, length, length}).clone();
        if (window > 0) visible = visible.logical_and(key > query - window);
        if (padded) {
          visible[1] = visible[1].logical_and((key >= 7).logical_or(key == query));
        }
        at::Tensor scores = at::matmul(q, wide_k.transpose(2, 3)) * 0.3;
        if (cap > 0) scores = (scores / cap).tanh() * cap;
        scores = scores.masked_fill(visible.logical_not(), -INFINITY);
        const at::Tensor expected = at::matmul(scores.softmax(-1), wide_v);
        const at::Tensor got = Attend(
            q, k, v,
            {.window = window, .starts = padded ? &starts : nullptr, .scale = 0.3, .softcap = cap});
        EXPECT_TRUE(Close(got, expected)) << window << " " << cap << " " << padded;
        const at::Tensor last = Attend(q.narrow(2, length - 1, 1), k, v,
                                       {.window = window, .scale = 0.3, .softcap = cap});
        EXPECT_TRUE(padded || Close(last, expected.narrow(2, length - 1, 1)));
      }
    }
  }
}

TEST(Rope, ScalingsChangeFrequenciesAsDocumented) {
  RopeConfig rope;
  const at::Tensor plain = InverseFrequencies(rope, 16);
  EXPECT_EQ(plain[0].item<float>(), 1.0f);
  EXPECT_NEAR(plain[4].item<float>(), 0.01f, 1e-8);
  rope.scaling = RopeScaling::kLinear;
  rope.factor = 4;
  EXPECT_TRUE(InverseFrequencies(rope, 16).equal(plain / 4));
  rope.scaling = RopeScaling::kLlama3;
  rope.original_max_position_embeddings = 64;
  const at::Tensor llama3 = InverseFrequencies(rope, 16);
  EXPECT_EQ(llama3[0].item<float>(), plain[0].item<float>());        // Wave 6 < 64 / 4: kept.
  EXPECT_EQ(llama3[7].item<float>(), (plain[7] / 4).item<float>());  // Wave 19,869 > 64: stretched.
  const float between = llama3[1].item<float>();  // Wave 19.9 lies between 16 and 64.
  EXPECT_LT(between, plain[1].item<float>());
  EXPECT_GT(between, (plain[1] / 4).item<float>());
}

TEST(Rope, LongSequencesGetTheirOwnFrequencies) {
  RopeConfig rope;
  rope.original_max_position_embeddings = 10;
  rope.scaling = RopeScaling::kDynamic;
  rope.factor = 2;
  const at::Tensor plain = InverseFrequencies(RopeConfig(), 8);
  EXPECT_TRUE(InverseFrequencies(rope, 8, 10).equal(plain));
  // theta (2 * 30 / 10 - 1)^(8/6), and the first dimension has no theta.
  const at::Tensor grown = InverseFrequencies(rope, 8, 30);
  EXPECT_EQ(grown[0].item<float>(), 1.0f);
  const double theta = 10000.0 * std::pow(5.0, 8.0 / 6.0);
  EXPECT_NEAR(grown[2].item<float>(), std::pow(theta, -0.5), 1e-6);
  rope.scaling = RopeScaling::kLongRope;
  rope.short_factor = {1, 1, 1, 1};
  rope.long_factor = {2, 3, 4, 5};
  EXPECT_TRUE(InverseFrequencies(rope, 8, 10).equal(plain));
  EXPECT_TRUE(at::allclose(InverseFrequencies(rope, 8, 11) * at::tensor({2, 3, 4, 5}), plain));
  rope.attention_factor = 1.25;
  RopeTable table(rope, 8, at::kCPU, at::kFloat);
  EXPECT_NEAR(table.Range(0, 1).cos[0][0].item<float>(), 1.25f, 1e-6);
  // Each sequence by its own length, whatever lies beside it.
  const RopeTable::Rows rows = table.Last({4, 12, 2}, 3);
  EXPECT_TRUE(rows.sin[0].equal(table.Range(1, 3).sin));
  EXPECT_TRUE(rows.sin[1].equal(table.Range(9, 3).sin));
  EXPECT_TRUE(rows.sin[2][1].equal(table.Range(0, 2).sin[0]));
  EXPECT_FALSE(table.Range(3, 1).sin.equal(table.Range(3, 9).sin.narrow(0, 0, 1)));
}

TEST(Rope, YarnKeepsFastDimensionsAndStretchesSlowOnes) {
  RopeConfig rope;
  rope.scaling = RopeScaling::kYarn;
  rope.factor = 4;
  rope.original_max_position_embeddings = 4096;
  const at::Tensor plain = InverseFrequencies(RopeConfig(), 64);
  const at::Tensor yarn = InverseFrequencies(rope, 64);
  EXPECT_FLOAT_EQ(yarn[0].item<float>(), plain[0].item<float>());
  EXPECT_FLOAT_EQ(yarn[31].item<float>(), plain[31].item<float>() / 4);
  const at::Tensor ratio = plain / yarn;
  EXPECT_TRUE((ratio.narrow(0, 1, 31) >= ratio.narrow(0, 0, 31) - 1e-4).all().item<bool>());
}

TEST(Rope, OnlyTheFirstDimensionsTurn) {
  RopeTable table(RopeConfig(), 4, at::kCPU, at::kFloat);
  const at::Tensor x = at::randn({1, 2, 3, 10});
  const at::Tensor turned = ApplyRope(x, table.Range(5, 3));
  EXPECT_TRUE(turned.narrow(-1, 4, 6).equal(x.narrow(-1, 4, 6)));
  EXPECT_TRUE(turned.narrow(-1, 0, 4).equal(ApplyRope(x.narrow(-1, 0, 4), table.Range(5, 3))));
}

TEST(Rope, TableGrowsWithoutChangingRows) {
  RopeTable table(RopeConfig(), 8, at::kCPU, at::kFloat);
  const at::Tensor before = table.Range(3, 4).cos.clone();
  table.Range(0, 3000);
  EXPECT_TRUE(table.Range(3, 4).cos.equal(before));
  EXPECT_TRUE(table.Last({7}, 4).cos[0].equal(before));
}

}  // namespace
}  // namespace quantd::engine
