// Folders, indexes and configurations: the good ones and what is refused.
#include "workers/engine/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/checkpoint/shards.h"
#include "workers/engine/checkpoint/test_util.h"

namespace quantd::engine {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

json GoodConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 100},
          {"hidden_size", 64},
          {"intermediate_size", 128},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"torch_dtype", "bfloat16"},
          {"eos_token_id", {1, 2}}};
}

void WriteFile(const std::string& path, const std::vector<TensorInfo>& tensors, uint8_t fill) {
  auto writer = SafetensorsWriter::Create(path, tensors);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const TensorInfo& tensor : tensors) {
    const std::vector<uint8_t> bytes(*DataBytes(tensor.dtype, tensor.shape), fill);
    ASSERT_TRUE((*writer)->Write(tensor.name, bytes).ok());
  }
  ASSERT_TRUE((*writer)->Finish().ok());
}

TEST(Config, ReadsEveryField) {
  const auto config = ParseModelConfig(GoodConfig(), "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "LlamaForCausalLM");
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->dtype, "bfloat16");
  EXPECT_EQ(config->rope.theta, 10000.0);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(1, 2));
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->sliding_window, 0);
}

TEST(Config, RopeOldAndNewStyle) {
  json old_style = GoodConfig();
  old_style["rope_theta"] = 500000.0;
  old_style["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  json new_style = GoodConfig();
  new_style["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4}, {"rope_theta", 500000}};
  for (const json& style : {old_style, new_style}) {
    const auto config = ParseModelConfig(style, "c");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->rope.theta, 500000.0);
    EXPECT_EQ(config->rope.scaling, RopeScaling::kLinear);
    EXPECT_EQ(config->rope.factor, 4.0);
  }
  json llama3 = GoodConfig();
  llama3["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 32.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  const auto config = ParseModelConfig(llama3, "c");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(config->rope.original_max_position_embeddings, 8192);
}

TEST(Config, SlidingWindowByFamily) {
  const auto sliding = [](json config, absl::string_view type) {
    config["model_type"] = type;
    const auto parsed = ParseModelConfig(config, "c");
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.ok() ? std::make_pair(parsed->sliding_window, parsed->layer_is_sliding)
                       : std::make_pair(int64_t{-1}, std::vector<bool>());
  };
  json config = GoodConfig();
  config["sliding_window"] = 8;
  EXPECT_EQ(sliding(config, "llama").first, 0);
  EXPECT_THAT(sliding(config, "mistral").second, ElementsAre(true, true));
  EXPECT_EQ(sliding(config, "qwen2").first, 0);
  config["use_sliding_window"] = true;
  config["max_window_layers"] = 1;
  EXPECT_THAT(sliding(config, "qwen2").second, ElementsAre(false, true));
  config["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_THAT(sliding(config, "qwen3").second, ElementsAre(true, false));
  config["sliding_window"] = nullptr;
  EXPECT_EQ(sliding(config, "mistral").first, 0);
  config.erase("sliding_window");
  EXPECT_EQ(sliding(config, "mistral").first, 4096);
}

json Gpt2Config() {
  return {{"model_type", "gpt2"}, {"vocab_size", 100},  {"n_embd", 60},      {"n_layer", 2},
          {"n_head", 4},          {"n_inner", nullptr}, {"n_positions", 128}};
}

TEST(Config, ClassesHaveTheirOwnNamesAndDefaults) {
  const auto gpt2 = ParseModelConfig(Gpt2Config(), "c");
  ASSERT_TRUE(gpt2.ok()) << gpt2.status();
  EXPECT_EQ(gpt2->intermediate_size, 240);
  EXPECT_EQ(gpt2->head_dim, 15);  // Nothing turns: it may be odd.
  EXPECT_EQ(gpt2->hidden_act, "gelu_new");
  EXPECT_EQ(gpt2->norm_eps, 1e-5);
  EXPECT_TRUE(gpt2->tie_word_embeddings);
  EXPECT_EQ(gpt2->query_scalar, 0);

  json gemma = GoodConfig();
  gemma["model_type"] = "gemma3_text";
  gemma["num_hidden_layers"] = 7;
  gemma["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8}};
  const auto gemma3 = ParseModelConfig(gemma, "c");
  ASSERT_TRUE(gemma3.ok()) << gemma3.status();
  EXPECT_EQ(gemma3->head_dim, 256);
  EXPECT_EQ(gemma3->query_scalar, 256);
  EXPECT_EQ(gemma3->rope.theta, 1e6);
  EXPECT_EQ(gemma3->rope.factor, 8);
  EXPECT_EQ(gemma3->local_rope->theta, 1e4);
  EXPECT_EQ(gemma3->local_rope->scaling, RopeScaling::kDefault);
  EXPECT_THAT(gemma3->layer_is_sliding, ElementsAre(true, true, true, true, true, false, true));
  EXPECT_EQ(gemma3->attention_softcap, 0);
  gemma["model_type"] = "gemma2";
  const auto gemma2 = ParseModelConfig(gemma, "c");
  ASSERT_TRUE(gemma2.ok()) << gemma2.status();
  EXPECT_EQ(gemma2->attention_softcap, 50);
  EXPECT_FALSE(gemma2->local_rope.has_value());
  EXPECT_THAT(gemma2->layer_is_sliding, ElementsAre(true, false, true, false, true, false, true));
  gemma["attn_logit_softcapping"] = nullptr;
  EXPECT_EQ(ParseModelConfig(gemma, "c")->attention_softcap, 0);

  json phi = GoodConfig();
  phi["model_type"] = "phi";
  phi["auto_map"] = {{"AutoModel", "modeling_phi.PhiForCausalLM"}};  // Of a known class: unused.
  EXPECT_EQ(ParseModelConfig(phi, "c")->rotary_dim, 8);
  phi["model_type"] = "phi3";
  phi["original_max_position_embeddings"] = 64;
  phi["rope_scaling"] = {{"type", "su"},
                         {"short_factor", std::vector<double>(8, 1.0)},
                         {"long_factor", std::vector<double>(8, 2.0)}};
  const auto phi3 = ParseModelConfig(phi, "c");
  ASSERT_TRUE(phi3.ok()) << phi3.status();
  EXPECT_EQ(phi3->rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(phi3->rope.original_max_position_embeddings, 64);
  EXPECT_EQ(phi3->rope.factor, 8);  // 512 / 64.
  EXPECT_NEAR(phi3->rope.attention_factor, std::sqrt(1.5), 1e-12);
}

TEST(Config, ExpertsByLayer) {
  json moe = GoodConfig();
  moe["model_type"] = "qwen3_moe";
  moe["num_hidden_layers"] = 4;
  moe["num_experts"] = 8;
  moe["num_experts_per_tok"] = 2;
  moe["moe_intermediate_size"] = 24;
  moe["decoder_sparse_step"] = 2;
  moe["mlp_only_layers"] = {3};
  const auto config = ParseModelConfig(moe, "c");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->experts, 8);
  EXPECT_EQ(config->expert_intermediate_size, 24);
  EXPECT_FALSE(config->normalize_expert_weights);
  EXPECT_THAT(config->layer_is_dense, ElementsAre(true, false, true, true));
  const auto words = [&](const char* field, json value) {
    json bad = moe;
    bad[field] = std::move(value);
    return std::string(ParseModelConfig(bad, "c").status().message());
  };
  EXPECT_THAT(words("num_experts_per_tok", 9), HasSubstr("at most num_experts (8)"));
  EXPECT_THAT(words("num_experts", nullptr), HasSubstr("is missing"));
  EXPECT_THAT(words("mlp_only_layers", {4}), HasSubstr("layers from 0 to 3"));
  EXPECT_THAT(words("mlp_only_layers", "all"), HasSubstr("layers from 0 to 3"));
}

struct BadField {
  const char* field;
  json value;  // Discarded: the field is removed.
  const char* words;
  absl::StatusCode code = absl::StatusCode::kDataLoss;
};

TEST(Config, ErrorsUseTheNamesOfTheFile) {
  json config = Gpt2Config();
  config.erase("n_embd");
  EXPECT_THAT(std::string(ParseModelConfig(config, "c").status().message()),
              HasSubstr("\"n_embd\" is missing"));
  config = Gpt2Config();
  config["n_head"] = 7;
  EXPECT_THAT(std::string(ParseModelConfig(config, "c").status().message()),
              HasSubstr("a multiple of n_head (7)"));
  config["n_head"] = 4;
  config["add_cross_attention"] = true;
  EXPECT_TRUE(absl::IsUnimplemented(ParseModelConfig(config, "c").status()));
}

TEST(Config, BadFieldsAreNamedWithWhatIsAllowed) {
  const json removed(json::value_t::discarded);
  const BadField cases[] = {
      {"vocab_size", removed, "\"vocab_size\" is missing"},
      {"hidden_size", nullptr, "\"hidden_size\" is missing"},
      {"vocab_size", "100", "a whole number from 1"},
      {"vocab_size", 1.5, "\"vocab_size\" is 1.5"},
      {"vocab_size", 0, "\"vocab_size\" is 0"},
      {"vocab_size", int64_t{1} << 40, "a whole number from 1"},
      {"vocab_size", ~uint64_t{0}, "18446744073709551615"},
      {"num_hidden_layers", -3, "\"num_hidden_layers\" is -3"},
      {"num_hidden_layers", true, "\"num_hidden_layers\" is true"},
      {"num_key_value_heads", 3, "a divisor of num_attention_heads (4)"},
      {"head_dim", 15, "even"},
      {"num_attention_heads", 6, "a multiple of num_attention_heads (6)"},
      {"rms_norm_eps", "small", "a number above 0"},
      {"rms_norm_eps", 0, "a number above 0"},
      {"tie_word_embeddings", "yes", "true or false"},
      {"tie_word_embeddings", 1, "true or false"},
      {"hidden_act", 3, "a string"},
      {"architectures", json::array(), "an array that begins with a class name"},
      {"architectures", "LlamaForCausalLM", "an array that begins with a class name"},
      {"auto_map", {{"AutoModel", "evil.py"}}, "never run"},
      {"eos_token_id", "x", "a token id or an array"},
      {"eos_token_id", -7, "a token id or an array"},
      {"rope_scaling", "linear", "an object"},
      {"rope_scaling", {{"type", "linear"}}, "\"rope_scaling.factor\" is missing"},
      {"rope_scaling", {{"type", "linear"}, {"factor", 0}}, "rope_scaling.factor"},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 2}}, "low_freq_factor"},
      {"rope_scaling",
       {{"type", "mrope"}, {"factor", 2}},
       "\"mrope\" is not supported; supported: default, linear, dynamic, yarn, longrope",
       absl::StatusCode::kUnimplemented},
      {"rope_scaling",
       {{"type", "yarn"}, {"beta_fast", 1}, {"beta_slow", 2}},
       "\"rope_scaling.beta_fast\" is 1.0; it must be above beta_slow (2)"},
      {"rope_parameters", {{"rope_type", "longrope"}}, "short_factor\" is missing"},
      {"rope_parameters",
       {{"rope_type", "longrope"}, {"short_factor", {1, 2}}},
       "a list of 8 numbers above 0 (this list has 2)"},
      {"rope_parameters",
       {{"full_attention", {{"rope_type", "default"}}}},
       "by layer type is not supported for llama",
       absl::StatusCode::kUnimplemented},
      {"use_bidirectional_attention", true, "only false", absl::StatusCode::kUnimplemented},
      {"rope_theta", -1, "a number above 0"},
      {"partial_rotary_factor", 0.5, "partial_rotary_factor 0.5", absl::StatusCode::kUnimplemented},
  };
  for (const BadField& bad : cases) {
    SCOPED_TRACE(absl::StrCat(bad.field, " = ", bad.value.is_discarded() ? "" : bad.value.dump()));
    json config = GoodConfig();
    if (bad.value.is_discarded()) {
      config.erase(bad.field);
    } else {
      config[bad.field] = bad.value;
    }
    if (absl::string_view(bad.field) == "num_attention_heads") config["num_key_value_heads"] = 2;
    const absl::Status status = ParseModelConfig(config, "/m/config.json").status();
    EXPECT_EQ(status.code(), bad.code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad.words));
    EXPECT_THAT(std::string(status.message()), HasSubstr("/m/config.json"));
  }
}

TEST(Json, DuplicateKeysTooManyDepthAndKindAreRefused) {
  std::string many = "{";
  for (int i = 0; i <= 600'000; ++i) absl::StrAppend(&many, i == 0 ? "\"" : ",\"", i, "\":0");
  EXPECT_THAT(std::string(ParseJsonObject(many + "}", "f").status().message()),
              HasSubstr("f: holds more than 600000 keys"));
  EXPECT_THAT(std::string(ParseJsonObject("{\"a\":{\"b\":1,\"b\":2}}", "f").status().message()),
              HasSubstr("\"b\" appears twice"));
  const std::string deep(100'000, '[');
  EXPECT_THAT(std::string(ParseJsonObject("{\"a\":" + deep, "f").status().message()),
              HasSubstr("deep"));
  const absl::string_view hidden("{}\0{\"a\":1}", 10);
  EXPECT_THAT(std::string(ParseJsonObject(hidden, "f").status().message()),
              HasSubstr("not valid JSON at byte 2"));
  EXPECT_THAT(std::string(ParseJsonObject("[1]", "f").status().message()),
              HasSubstr("must be a JSON object"));
  EXPECT_THAT(std::string(ParseJsonObject("{\"a\":NaN}", "f").status().message()),
              HasSubstr("not valid JSON at byte"));
}

class Folder : public ::testing::Test {
 protected:
  std::string Error() {
    const auto checkpoint = Checkpoint::Open(folder_.path());
    EXPECT_FALSE(checkpoint.ok());
    return std::string(checkpoint.status().message());
  }
  void AddConfig() { folder_.Add("config.json", GoodConfig().dump()); }
  void AddIndex(const json& map) { folder_.Add(kIndexFileName, json{{"weight_map", map}}.dump()); }
  TempFolder folder_;
};

TEST_F(Folder, ShardedAndSingleHaveTheSameDigest) {
  AddConfig();
  const std::vector<TensorInfo> all = {{"a", DType::kF32, {300}}, {"b", DType::kBF16, {4, 4}}};
  const auto plan = PlanShards(all, 1000);
  ASSERT_EQ(plan.size(), 2u);
  for (const Shard& shard : plan) {
    WriteFile(absl::StrCat(folder_.path(), "/", shard.file_name), shard.tensors, 9);
  }
  ASSERT_TRUE(WriteShardIndex(folder_.path(), plan).ok());
  folder_.Add("generation_config.json", "{\"eos_token_id\": [2, 3]}");
  folder_.Add("tokenizer.json", "{}");
  folder_.Add("modeling_evil.py", "");
  folder_.Add("LICENSE", "");
  const auto sharded = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  EXPECT_EQ((*sharded)->total_bytes(), 1232);
  EXPECT_EQ((*sharded)->FileOf("b"), "model-00002-of-00002.safetensors");
  EXPECT_THAT((*sharded)->names(), ElementsAre("a", "b"));
  EXPECT_THAT((*sharded)->config().eos_token_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT((*sharded)->CompanionFiles(),
              ElementsAre("LICENSE", "generation_config.json", "tokenizer.json"));
  EXPECT_THAT(std::string((*sharded)->Find("c").status().message()),
              HasSubstr("\"c\" is not in " + folder_.path()));

  const TempFolder other;
  other.Add("config.json", GoodConfig().dump());
  WriteFile(other.path() + "/model.safetensors", all, 9);
  const auto single = Checkpoint::Open(other.path());
  ASSERT_TRUE(single.ok()) << single.status();
  EXPECT_EQ((*single)->Digest(), (*sharded)->Digest());
  WriteFile(other.path() + "/model.safetensors", all, 8);
  EXPECT_NE((*Checkpoint::Open(other.path()))->Digest(), (*sharded)->Digest());
}

TEST_F(Folder, SymbolicLinksAreFollowed) {
  const TempFolder blobs;
  blobs.Add("0123", GoodConfig().dump());
  WriteFile(blobs.path() + "/4567", {{"a", DType::kU8, {1}}}, 0);
  std::filesystem::create_symlink(blobs.path() + "/0123", folder_.path() + "/config.json");
  std::filesystem::create_symlink(blobs.path() + "/4567", folder_.path() + "/model.safetensors");
  EXPECT_TRUE(Checkpoint::Open(folder_.path()).ok());
}

TEST_F(Folder, MissingPartsAreNamed) {
  EXPECT_THAT(Error(), HasSubstr("no config.json"));
  AddConfig();
  EXPECT_THAT(Error(), HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  EXPECT_TRUE(absl::IsNotFound(Checkpoint::Open(folder_.path() + "/none").status()));
  EXPECT_THAT(std::string(Checkpoint::Open(folder_.path() + "/config.json").status().message()),
              HasSubstr("is a file"));
}

TEST_F(Folder, PicklesAreNeverRead) {
  for (const char* name : {"other_model.bin", "model.pt", "model.pth", "x.ckpt", "weights.pkl"}) {
    const TempFolder folder;
    folder.Add("config.json", GoodConfig().dump());
    folder.Add(name, "\x80\x04");
    const absl::Status status = Checkpoint::Open(folder.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_THAT(std::string(status.message()), HasSubstr("save_pretrained"));
  }
}

TEST_F(Folder, IndexMayOnlyNamePlainFiles) {
  AddConfig();
  const json names[] = {"../../etc/passwd",
                        "/etc/passwd",
                        "sub/model.safetensors",
                        "..",
                        "",
                        "https://example.org/model.safetensors",
                        "a\\b.safetensors",
                        std::string("a\0.safetensors", 14),
                        "model.bin",
                        7,
                        nullptr,
                        std::string(300, 'x') + ".safetensors"};
  for (const json& name : names) {
    AddIndex({{"a", name}});
    const absl::Status status = Checkpoint::Open(folder_.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("tensor \"a\" is said to be in"));
  }
}

TEST_F(Folder, IndexThatLiesIsRefused) {
  AddConfig();
  folder_.Add(kIndexFileName, "{\"weight_map\": [1]}");
  EXPECT_THAT(Error(), HasSubstr("\"weight_map\" must be an object"));
  AddIndex({{"a", "gone.safetensors"}});
  EXPECT_THAT(Error(), HasSubstr("gone.safetensors"));
  WriteFile(folder_.path() + "/s.safetensors", {{"b", DType::kU8, {1}}}, 0);
  AddIndex({{"a", "s.safetensors"}});
  const std::string error = Error();
  EXPECT_THAT(error, HasSubstr("\"a\""));
  EXPECT_THAT(error, HasSubstr("s.safetensors, which lacks it"));
  folder_.Add(kIndexFileName,
              "{\"weight_map\": {\"b\": \"s.safetensors\", \"b\": \"t.safetensors\"}}");
  EXPECT_THAT(Error(), HasSubstr("appears twice"));
}

TEST(RealCheckpoint, OpensWithKnownFacts) {
  const auto checkpoint = Checkpoint::Open(QUANTD_SOURCE_DIR "/models/tiny-6m");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->config().layers, 6);
  EXPECT_EQ((*checkpoint)->names().size(), 56u);
  EXPECT_EQ((*checkpoint)->Digest().size(), 64u);
}

}  // namespace
}  // namespace quantd::engine
