// GGUF beyond the container: rows in pairs and back, tokenizers both ways, metadata and
// configuration both ways, and what cannot be written or read is refused by name.
#include "workers/engine/formats/gguf_format.h"

#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/gguf_model.h"
#include "workers/engine/formats/gguf_rows.h"
#include "workers/engine/formats/gguf_splits.h"
#include "workers/engine/formats/gguf_tokenizer.h"
#include "workers/engine/methods/gguf_blocks.h"
#include "workers/engine/tensor/aten.h"

namespace quantd::engine {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/quantd_gguf_XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() { RemoveTree(path_).IgnoreError(); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

json LlamaConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 16},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"max_position_embeddings", 128},
          {"tie_word_embeddings", true},
          {"vocab_size", 300}};
}

// A file with these metadata and the tensors that readers look at.
absl::StatusOr<std::unique_ptr<GgufFile>> Written(const Folder& folder,
                                                  const GgufMetadata& metadata,
                                                  std::vector<GgufRopeFactors> factors = {}) {
  const std::string path = folder.path() + "/m.gguf";
  std::vector<GgufTensorInfo> tensors = {{"token_embd.weight", kernels::GgufType::kF16, {300, 64}}};
  for (const GgufRopeFactors& list : factors) {
    tensors.push_back(
        {list.name, kernels::GgufType::kF32, {static_cast<int64_t>(list.factors.size())}});
  }
  auto writer = GgufWriter::Create(path, metadata, tensors);
  EXPECT_TRUE(writer.ok()) << writer.status();
  const std::vector<uint8_t> zeros(300 * 64 * 2);
  EXPECT_TRUE((*writer)->Append("token_embd.weight", zeros).ok());
  for (const GgufRopeFactors& list : factors) {
    EXPECT_TRUE((*writer)
                    ->Append(list.name, absl::MakeConstSpan(
                                            reinterpret_cast<const uint8_t*>(list.factors.data()),
                                            list.factors.size() * sizeof(float)))
                    .ok());
  }
  EXPECT_TRUE((*writer)->Finish().ok());
  return GgufFile::Open(path);
}

TEST(GgufRowsTest, HalvesBecomePairs) {
  std::vector<uint8_t> rows(16);
  for (uint8_t i = 0; i < 16; ++i) rows[i] = i;
  // Two heads of four rows of two bytes.
  EXPECT_THAT(PairRows(rows, 8, 4),
              ElementsAre(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
}

TEST(GgufModelTest, NamesGoBothWays) {
  for (const GgufArchitecture& row : GgufArchitectures()) {
    for (const bool in_block : {false, true}) {
      for (const GgufNames& names : in_block ? row.block : row.outer) {
        const std::string hf =
            absl::StrCat(in_block ? absl::StrCat(row.block_prefix, "7.") : "", names.hf);
        const std::string third = absl::StrReplaceAll(hf, {{"*", "3"}});
        const auto place = PlaceInGguf(row, third, "weight");
        ASSERT_TRUE(place.ok()) << place.status();
        EXPECT_EQ(place->expert, hf == third ? -1 : 3);
        const auto back = OriginOfGguf(row, place->name);
        ASSERT_TRUE(back.has_value()) << place->name;
        EXPECT_EQ(back->module, hf);
        EXPECT_EQ(back->kind, "weight");
      }
    }
    EXPECT_TRUE(absl::IsNotFound(PlaceInGguf(row, "model.layers.0.nothing", "weight").status()));
    EXPECT_FALSE(OriginOfGguf(row, "blk.x.attn_q.weight").has_value());
    EXPECT_FALSE(OriginOfGguf(row, "weight").has_value());
  }
}

TEST(GgufModelTest, ConfigurationGoesBothWays) {
  const Folder folder;
  const ModelConfig config = *ParseModelConfig(LlamaConfig(), "test");
  const auto file = Written(folder, *GgufMetadataOf(config));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto back = ConfigOfGguf(**file);
  ASSERT_TRUE(back.ok()) << back.status();
  const json original = LlamaConfig();
  for (const auto& [key, value] : original.items()) EXPECT_EQ((*back)[key], value) << key;
}

TEST(GgufModelTest, Llama3ScalingBecomesFactors) {
  json raw = LlamaConfig();
  raw["rope_scaling"] = {{"rope_type", "llama3"},
                         {"factor", 8.0},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", 64}};
  const ModelConfig config = *ParseModelConfig(raw, "test");
  const std::vector<GgufRopeFactors> factors = RopeFactorsOf(config);
  ASSERT_EQ(factors.size(), 1u);
  ASSERT_EQ(factors[0].factors.size(), 8u);
  EXPECT_EQ(factors[0].factors.front(), 1);
  EXPECT_EQ(factors[0].factors.back(), 8);
  const Folder folder;
  const auto file = Written(folder, *GgufMetadataOf(config), factors);
  const auto back = ConfigOfGguf(**file);
  ASSERT_TRUE(back.ok()) << back.status();
  const auto parsed = ParseModelConfig(*back, "test");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(parsed->rope.long_factor.back(), 8);
}

TEST(GgufModelTest, RefusesWhatReadersDoNotCompute) {
  json raw = LlamaConfig();
  raw["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 2.0}};
  EXPECT_THAT(std::string(GgufMetadataOf(*ParseModelConfig(raw, "test")).status().message()),
              HasSubstr("dynamic"));
}

TEST(GgufModelTest, MissingKeysAreNamed) {
  const ModelConfig config = *ParseModelConfig(LlamaConfig(), "test");
  for (const char* key : {"llama.block_count", "llama.embedding_length",
                          "llama.attention.layer_norm_rms_epsilon", "general.architecture"}) {
    const Folder folder;
    GgufMetadata metadata = *GgufMetadataOf(config);
    metadata.erase(key);
    const auto missing = ConfigOfGguf(**Written(folder, metadata));
    EXPECT_EQ(missing.status().code(), absl::StatusCode::kDataLoss) << key;
    EXPECT_THAT(std::string(missing.status().message()), HasSubstr(key));
    metadata[key] = GgufValue::Bool(true);
    metadata[key].data = std::vector<std::string>{"x"};
    metadata[key].type = GgufValueType::kString;
    EXPECT_FALSE(ConfigOfGguf(**Written(folder, metadata)).ok()) << key;
  }
}

// A foreign tokenizer must give the same ids as the one it was made from.
TEST(GgufTokenizerTest, MetadataGiveTheSameTokens) {
  const std::string model = std::string(QUANTD_SOURCE_DIR) + "/models/tiny-6m";
  const auto checkpoint = Checkpoint::Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto made = GgufTokenizerOf(model, (*checkpoint)->config());
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->caveat, "");
  GgufMetadata metadata = *GgufMetadataOf((*checkpoint)->config());
  metadata.insert(made->metadata.begin(), made->metadata.end());
  const Folder folder;
  const auto file = Written(folder, metadata);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto text = TokenizerJsonOf(**file);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto back = Tokenizer::Parse(*text, "gguf");
  ASSERT_TRUE(back.ok()) << back.status();
  const auto original = Tokenizer::Load(model);
  for (const char* words :
       {"The quick brown fox's 12345 jumps\n\n  over", "na\xc3\xafve \xe2\x98\x83",
        "<|end_of_text|> and  more", "", "\t\tx = y + 1;"}) {
    for (const bool special : {false, true}) {
      EXPECT_EQ(*(*back)->Encode(words, {.add_special_tokens = special}),
                *(*original)->Encode(words, {.add_special_tokens = special}))
          << words;
    }
  }
}

// Byte fallback: scores instead of merges.
TEST(GgufTokenizerTest, ScoresGiveTheSameTokens) {
  json vocab = {{"<unk>", 0}, {"<s>", 1}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    vocab[name] = 2 + byte;
  }
  const std::vector<std::string> pieces = {"\xe2\x96\x81",
                                           "a",
                                           "b",
                                           "c",
                                           "ab",
                                           "bc",
                                           "abc",
                                           "\xe2\x96\x81"
                                           "ab"};
  for (size_t i = 0; i < pieces.size(); ++i) vocab[pieces[i]] = 258 + i;
  const json merges = {"b c", "a bc", "a b", "\xe2\x96\x81 ab"};
  const json normalizer = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", "\xe2\x96\x81"}},
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xe2\x96\x81"}}}}};
  const json document = {{"added_tokens", json::array()},
                         {"normalizer", normalizer},
                         {"model",
                          {{"type", "BPE"},
                           {"vocab", vocab},
                           {"merges", merges},
                           {"unk_token", "<unk>"},
                           {"fuse_unk", true},
                           {"byte_fallback", true}}}};
  const Folder folder;
  ASSERT_TRUE(WriteFileAtomic(folder.path() + "/tokenizer.json", document.dump()).ok());
  const ModelConfig config = *ParseModelConfig(LlamaConfig(), "test");
  const auto made = GgufTokenizerOf(folder.path(), config);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(*made->metadata.at("tokenizer.ggml.model").text(), "llama");
  EXPECT_EQ(made->metadata.at("tokenizer.ggml.tokens").texts()->size(), 300u);
  GgufMetadata metadata = *GgufMetadataOf(config);
  metadata.insert(made->metadata.begin(), made->metadata.end());
  const auto file = Written(folder, metadata);
  const auto text = TokenizerJsonOf(**file);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto back = Tokenizer::Parse(*text, "gguf");
  ASSERT_TRUE(back.ok()) << back.status();
  const auto original = Tokenizer::Parse(document.dump(), "original");
  ASSERT_TRUE(original.ok()) << original.status();
  for (const char* words : {"abc ab bc", "aab cab", "ab\nz", "cc"}) {
    EXPECT_EQ(*(*back)->Encode(words), *(*original)->Encode(words)) << words;
  }
}

TEST(GgufTokenizerTest, RefusesContradictions) {
  const ModelConfig config = *ParseModelConfig(LlamaConfig(), "test");
  const auto refused = [&](GgufMetadata tokens) {
    const Folder folder;
    GgufMetadata metadata = *GgufMetadataOf(config);
    metadata.merge(tokens);
    return std::string(TokenizerJsonOf(**Written(folder, metadata)).status().message());
  };
  const GgufValue two = GgufValue::Strings({"a", "b"});
  EXPECT_THAT(refused({}), HasSubstr("tokens is missing"));
  EXPECT_THAT(refused({{"tokenizer.ggml.tokens", GgufValue::Strings({"a", "a"})}}),
              HasSubstr("appears twice"));
  EXPECT_THAT(refused({{"tokenizer.ggml.tokens", GgufValue::Strings({"\xff"})}}),
              HasSubstr("UTF-8"));
  EXPECT_THAT(refused({{"tokenizer.ggml.tokens", two},
                       {"tokenizer.ggml.token_type", GgufValue::I32s({1})}}),
              HasSubstr("1 numbers for 2"));
  EXPECT_THAT(refused({{"tokenizer.ggml.tokens", two},
                       {"tokenizer.ggml.model", GgufValue::String("bert")}}),
              HasSubstr("bert"));
  EXPECT_THAT(refused({{"tokenizer.ggml.tokens", two},
                       {"tokenizer.ggml.model", GgufValue::String("gpt2")},
                       {"tokenizer.ggml.merges", GgufValue::Strings({})},
                       {"tokenizer.ggml.pre", GgufValue::String("mars")}}),
              HasSubstr("mars"));
  EXPECT_THAT(refused({{"tokenizer.ggml.tokens", two},
                       {"tokenizer.ggml.model", GgufValue::String("llama")},
                       {"tokenizer.ggml.scores", GgufValue::F32s({1})}}),
              HasSubstr("scores"));
}

TEST(GgufFormatTest, OtherMethodsAreKeptInSixteenBits) {
  const at::Tensor codes = at::full({4, 32}, 3, at::kByte);
  const QuantizedLinear linear = {.bits = 4,
                                  .group_size = 32,
                                  .symmetric = true,
                                  .codes = codes,
                                  .scales = at::full({4, 1}, 0.1, at::kHalf),
                                  .zeros = at::full({4, 1}, 8, at::kByte),
                                  .group_index = at::zeros({32}, at::kInt)};
  const auto packed = GgufFormat()->Pack("m", linear);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(packed->at(0).name, "m.gguf_f16");
  const at::Tensor expected = linear.Dequantize(at::kFloat)->to(at::kHalf);
  EXPECT_TRUE(packed->at(0).tensor.view(at::kHalf).equal(expected));
}

TEST(GgufFormatTest, BlocksRoundTrip) {
  const at::Tensor weight = at::randn({3, 512});
  for (const BlockEncoding& encoding : GgufEncodings()) {
    const BlockLinear linear = QuantizeToBlocks(weight, encoding, {});
    const auto packed = GgufFormat()->Pack("m", linear);
    ASSERT_TRUE(packed.ok()) << packed.status();
    const std::vector<TensorInfo> described = GgufFormat()->Describe(SchemeOf("m", linear));
    ASSERT_EQ(described.size(), 1u);
    EXPECT_EQ(described[0].name, packed->at(0).name);
    EXPECT_EQ(described[0].shape, packed->at(0).tensor.sizes().vec());
    const auto back = GgufFormat()->Unpack({}, "m", [&](absl::string_view name) {
      if (name != packed->at(0).name) return absl::StatusOr<TensorView>(absl::NotFoundError(name));
      const at::Tensor& bytes = packed->at(0).tensor;
      return absl::StatusOr<TensorView>(
          TensorView{DType::kU8, bytes.sizes().vec(),
                     absl::MakeConstSpan(bytes.const_data_ptr<uint8_t>(), bytes.numel())});
    });
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_TRUE(Dequantize(*back, at::kFloat)->equal(*linear.Dequantize(at::kFloat)));
  }
  EXPECT_EQ(GgufTypeFor("q4_k", 320), "q5_0");
  EXPECT_EQ(GgufTypeFor("q6_k", 320), "q8_0");
  EXPECT_EQ(GgufTypeFor("q4_k", 100), "f16");
  EXPECT_EQ(GgufTypeFor("q4_k", 512), "q4_k");
}

}  // namespace
}  // namespace quantd::engine
