// The tokenizer's components one by one, on files small enough to check by hand, and what hostile
// files get. The comparison with the reference library is tests/conformance/tokenizer_oracle.py.
#include "workers/engine/tokenizer/tokenizer.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "nlohmann/json.hpp"
#include "workers/engine/tokenizer/decoder.h"
#include "workers/engine/tokenizer/pattern.h"
#include "workers/engine/tokenizer/unicode.h"

namespace quantd {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Letters a to e, blank and "_" with a few merges; no other component.
json Small() {
  return json::parse(R"({
    "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE",
              "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, " ": 5, "ab": 6, "cd": 7, "abcd": 8,
                        "bc": 9, "_": 10, "_a": 11},
              "merges": ["b c", "a b", "c d", "ab cd", "_ a"]}})");
}

std::unique_ptr<Tokenizer> Make(const json& description) {
  auto tokenizer = Tokenizer::Parse(description.dump(), "test.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<int32_t> Encode(const json& description, absl::string_view text) {
  auto tokenizer = Make(description);
  if (tokenizer == nullptr) return {};
  auto ids = tokenizer->Encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>{});
}

absl::Status ParseStatus(const json& description) {
  return Tokenizer::Parse(description.dump(), "test.json").status();
}

TEST(BpeTest, TheEarliestMergeGoesFirst) {
  // "b c" outranks "a b": the word is a+bc+d, although ab+cd would be shorter.
  EXPECT_THAT(Encode(Small(), "abcd"), ElementsAre(0, 9, 3));
  json other = Small();
  other["model"]["merges"] = {"a b", "c d", "ab cd", "b c"};
  EXPECT_THAT(Encode(other, "abcd"), ElementsAre(8));
  EXPECT_THAT(Encode(other, "abcdab"), ElementsAre(8, 6));
  EXPECT_THAT(Encode(other, ""), IsEmpty());
}

TEST(BpeTest, MergesAsPairsAreTheSame) {
  json pairs = Small();
  pairs["model"]["merges"] = json::parse(R"([["b", "c"], ["a", "b"]])");
  EXPECT_THAT(Encode(pairs, "abcd"), ElementsAre(0, 9, 3));
}

TEST(BpeTest, IgnoreMergesTakesWholeWords) {
  json description = Small();
  description["model"]["ignore_merges"] = true;
  EXPECT_THAT(Encode(description, "abcd"), ElementsAre(8));
}

TEST(BpeTest, UnknownCharactersVanishOrBecomeTheUnknownToken) {
  EXPECT_THAT(Encode(Small(), "axxb"), ElementsAre(6));
  json description = Small();
  description["model"]["vocab"]["?"] = 20;
  description["model"]["unk_token"] = "?";
  EXPECT_THAT(Encode(description, "axxb"), ElementsAre(0, 20, 20, 1));
  description["model"]["fuse_unk"] = true;
  EXPECT_THAT(Encode(description, "axxb"), ElementsAre(0, 20, 1));
}

TEST(BpeTest, BytesStandInForUnknownCharacters) {
  json description = Small();
  description["model"]["byte_fallback"] = true;
  description["model"]["vocab"]["<0xC3>"] = 30;
  description["model"]["vocab"]["<0xA9>"] = 31;
  description["decoder"] = {{"type", "ByteFallback"}};
  EXPECT_THAT(Encode(description, "a\u00e9b"), ElementsAre(0, 30, 31, 1));
  auto tokenizer = Make(description);
  EXPECT_EQ(tokenizer->Decode({0, 30, 31, 1}), "a\u00e9b");
  EXPECT_EQ(tokenizer->Decode({0, 30, 1}), "a\ufffdb");
}

TEST(BpeTest, LongWordsTakeNoQuadraticTime) {
  json description = Small();
  description["model"]["merges"] = {"a b", "c d", "ab cd"};
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += "abcd";
  EXPECT_EQ(Encode(description, text).size(), 200'000u);
}

struct Normalized {
  const char* normalizer;
  std::vector<int32_t> expected;  // Of "  Ab_ ".
};

TEST(NormalizerTest, EachDoesItsWork) {
  // "A" is unknown and vanishes unless it is made small.
  const Normalized kCases[] = {
      {R"({"type": "Lowercase"})", {5, 5, 6, 10, 5}},
      {R"({"type": "Prepend", "prepend": "_"})", {10, 5, 5, 1, 10, 5}},
      {R"({"type": "Strip"})", {1, 10}},
      {R"({"type": "Strip", "strip_left": false, "strip_right": true})", {5, 5, 1, 10}},
      {R"({"type": "Replace", "pattern": {"String": " "}, "content": "_"})", {10, 10, 1, 10, 10}},
      {R"({"type": "Replace", "pattern": {"Regex": " +"}, "content": "e"})", {4, 1, 10, 4}},
      {R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"},
          {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]})",
       {10, 10, 6, 10, 10}},
  };
  for (const Normalized& test : kCases) {
    json description = Small();
    description["normalizer"] = json::parse(test.normalizer);
    EXPECT_EQ(Encode(description, "  Ab_ "), test.expected) << test.normalizer;
  }
}

TEST(NormalizerTest, HangulComposesByTheStandard) {
  json description = Small();
  description["normalizer"] = {{"type", "NFC"}};
  description["model"]["vocab"]["\uD1F4"] = 20;
  description["model"]["vocab"]["\u11A7"] = 21;
  description["model"]["vocab"]["\uD1F5"] = 22;
  EXPECT_THAT(Encode(description, "\u1110\u116C\u11A7"), ElementsAre(20, 21));
  EXPECT_THAT(Encode(description, "\u1110\u116C\u11A8"), ElementsAre(22));
}

TEST(PreTokenizerTest, MergesStayInsideWords) {
  json description = Small();
  description["pre_tokenizer"] = {{"type", "Split"},
                                  {"pattern", {{"String", "b"}}},
                                  {"behavior", "MergedWithPrevious"},
                                  {"invert", false}};
  EXPECT_THAT(Encode(description, "abcd"), ElementsAre(6, 7));
  description["pre_tokenizer"]["behavior"] = "Isolated";
  EXPECT_THAT(Encode(description, "abcd"), ElementsAre(0, 1, 7));
  description["pre_tokenizer"]["behavior"] = "Removed";
  EXPECT_THAT(Encode(description, "abcd"), ElementsAre(0, 7));
  description["pre_tokenizer"]["behavior"] = "MergedWithNext";
  EXPECT_THAT(Encode(description, "abcd"), ElementsAre(0, 9, 3));
}

TEST(PreTokenizerTest, MetaspacePrependsAsItsSchemeSays) {
  json description = Small();
  description["added_tokens"] = {{{"id", 12}, {"content", "<x>"}, {"normalized", false}}};
  description["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "_"}};
  const auto encode = [&](const char* scheme, const char* text) {
    description["pre_tokenizer"]["prepend_scheme"] = scheme;
    return Encode(description, text);
  };
  EXPECT_THAT(encode("always", "a<x>a"), ElementsAre(11, 12, 11));
  EXPECT_THAT(encode("first", "a<x>a"), ElementsAre(11, 12, 0));
  EXPECT_THAT(encode("never", "a<x>a"), ElementsAre(0, 12, 0));
}

TEST(AddedTokensTest, MatchAsTheirFlagsSay) {
  json description = Small();
  description["added_tokens"] = {{{"id", 12}, {"content", "<l>"}, {"lstrip", true}},
                                 {{"id", 13}, {"content", "<r>"}, {"rstrip", true}},
                                 {{"id", 4}, {"content", "e"}, {"single_word", true}},
                                 {{"id", 14}, {"content", "<r>>"}}};
  for (json& token : description["added_tokens"]) token["normalized"] = false;
  EXPECT_THAT(Encode(description, "a  <l> b"), ElementsAre(0, 12, 5, 1));
  EXPECT_THAT(Encode(description, "a <r>  b"), ElementsAre(0, 5, 13, 1));
  EXPECT_THAT(Encode(description, "a e"), ElementsAre(0, 5, 4));
  EXPECT_THAT(Encode(description, "<r>>"), ElementsAre(14));
  // "e" is in the model's vocabulary and keeps its id; inside a word it is not the added token.
  EXPECT_THAT(Encode(description, "aea"), ElementsAre(0, 4, 0));
}

TEST(AddedTokensTest, NormalizedTokensAreFoundInNormalizedText) {
  json description = Small();
  description["normalizer"] = {{"type", "Lowercase"}};
  description["added_tokens"] = {{{"id", 12}, {"content", "XY"}, {"normalized", true}}};
  EXPECT_THAT(Encode(description, "axYa"), ElementsAre(0, 12, 0));
}

TEST(PostProcessorTest, TheTemplateIsFilled) {
  json description = Small();
  description["added_tokens"] = {{{"id", 12}, {"content", "<s>"}, {"special", true}}};
  description["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [12], "tokens": ["<s>"]}}})");
  auto tokenizer = Make(description);
  EXPECT_THAT(*tokenizer->Encode("a"), ElementsAre(12, 0));
  EXPECT_THAT(*tokenizer->Encode("a", {.add_special_tokens = false}), ElementsAre(0));
  EXPECT_EQ(tokenizer->Decode({12, 0}), "<s>a");
  EXPECT_EQ(tokenizer->Decode({12, 0}, {.skip_special_tokens = true}), "a");
  EXPECT_EQ(tokenizer->vocab_size(), 13);
}

TEST(DecoderTest, BrokenUtf8BecomesReplacementCharacters) {
  EXPECT_EQ(LossyUtf8("a\xE2\x82"), "a\ufffd");
  EXPECT_EQ(LossyUtf8("\xE2\x82\xE2\x82\xAC"), "\ufffd\u20ac");
  EXPECT_EQ(LossyUtf8("\xC0\xAF"), "\ufffd\ufffd");
  EXPECT_EQ(LossyUtf8("\xED\xA0\x80"), "\ufffd\ufffd\ufffd");
  EXPECT_EQ(LossyUtf8("\xF0\x9F\x98x"), "\ufffdx");
}

TEST(DecoderTest, IdsWithoutATokenAreLeftOut) {
  auto tokenizer = Make(Small());
  EXPECT_EQ(tokenizer->Decode({0, -1, 99'999, 1}), "ab");
  EXPECT_EQ(tokenizer->IdToToken(99'999), "");
}

TEST(TokenizerTest, InvalidUtf8IsRefusedWithItsPlace) {
  auto tokenizer = Make(Small());
  for (const char* text : {"ab\xFF", "ab\xC3", "ab\xED\xA0\x80", "ab\xC0\x80"}) {
    const absl::Status status = tokenizer->Encode(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("byte 2"));
  }
}

TEST(TokenizerTest, ManyThreadsGetTheSame) {
  auto tokenizer = Make(Small());
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        const auto ids = tokenizer->Encode("abcd");
        wrong += !ids.ok() || *ids != std::vector<int32_t>{0, 9, 3};
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(TokenizerTest, LoadsAModelFolder) {
  char pattern[] = "/tmp/quantd_tokenizer_XXXXXX";
  const std::string folder = mkdtemp(pattern);
  EXPECT_TRUE(absl::IsNotFound(Tokenizer::Load(folder).status()));
  const std::string text = Small().dump();
  ASSERT_TRUE(WriteFileAtomic(folder + "/tokenizer.json", text).ok());
  ASSERT_TRUE(WriteFileAtomic(folder + "/config.json", R"({"eos_token_id": 3})").ok());
  ASSERT_TRUE(
      WriteFileAtomic(folder + "/generation_config.json", R"({"eos_token_id": [2, 3]})").ok());
  ASSERT_TRUE(WriteFileAtomic(folder + "/tokenizer_config.json",
                              R"({"bos_token": {"content": "a"}, "eos_token": "e"})")
                  .ok());
  auto tokenizer = Tokenizer::Load(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_id(), 0);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  EXPECT_THAT((*tokenizer)->eos_ids(), ElementsAre(2, 3, 4));
  EXPECT_EQ((*tokenizer)->digest(), Sha256Hex(text));
  std::filesystem::remove_all(folder);
}

struct Damage {
  const char* pointer;  // Where in the file.
  const char* value;    // What is put there.
  absl::StatusCode code;
  const char* words;
};

TEST(HostileFileTest, EveryDamageIsNamed) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnsupported = absl::StatusCode::kUnimplemented;
  constexpr Damage kDamages[] = {
      {"/model", "null", kInvalid, "$.model"},
      {"/model/type", "\"Unigram\"", kUnsupported, "supported are BPE"},
      {"/model/vocab", "[]", kInvalid, "$.model.vocab"},
      {"/model/vocab/a", "\"x\"", kInvalid, "must be an integer"},
      {"/model/vocab/a", "-1", kInvalid, "-1: must be 0 to"},
      {"/model/vocab/a", "99999999999999999999", kInvalid, "$.model.vocab"},
      {"/model/vocab/a", "1", kInvalid, "the same id 1"},
      {"/model/merges", "{}", kInvalid, "$.model.merges"},
      {"/model/merges/0", "\"a\"", kInvalid, "$.model.merges[0]"},
      {"/model/merges/1", "\"a zz\"", kInvalid, "\"zz\" is not in model.vocab"},
      {"/model/merges/1", "\"e e\"", kInvalid, "\"ee\" is not in model.vocab"},
      {"/model/merges/1", "[1, 2]", kInvalid, "$.model.merges[1]"},
      {"/model/unk_token", "\"nobody\"", kInvalid, "nobody"},
      {"/model/fuse_unk", "3", kInvalid, "$.model.fuse_unk"},
      {"/added_tokens", "[{\"id\": -4, \"content\": \"x\"}]", kInvalid, "$.added_tokens[0].id"},
      {"/added_tokens", "[{\"id\": 4}]", kInvalid, "$.added_tokens[0].content"},
      {"/added_tokens", "7", kInvalid, "$.added_tokens"},
      {"/normalizer", "{\"type\": \"Precompiled\"}", kUnsupported, "$.normalizer.type"},
      {"/normalizer", "{}", kInvalid, "$.normalizer.type"},
      {"/normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Nmt\"}]}",
       kUnsupported, "$.normalizer.normalizers[0].type"},
      {"/pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\"}", kInvalid,
       "$.pre_tokenizer.pattern"},
      {"/pre_tokenizer",
       "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(\"}}",
       kInvalid, "not accepted"},
      {"/pre_tokenizer",
       "{\"type\": \"Split\", \"behavior\": \"Eaten\", \"pattern\": {\"String\": \"x\"}}", kInvalid,
       "Eaten"},
      {"/pre_tokenizer", "{\"type\": \"UnicodeScripts\"}", kUnsupported, "Metaspace"},
      {"/post_processor", "{\"type\": \"Other\"}", kUnsupported, "TemplateProcessing"},
      {"/decoder", "{\"type\": \"Strip\", \"start\": -1}", kInvalid, "$.decoder.start"},
      {"/decoder", "{\"type\": \"WordPiece\"}", kUnsupported, "$.decoder.type"},
  };
  for (const Damage& damage : kDamages) {
    json description = Small();
    description[json::json_pointer(damage.pointer)] = json::parse(damage.value);
    const absl::Status status = ParseStatus(description);
    EXPECT_EQ(status.code(), damage.code)
        << damage.pointer << " " << damage.value << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(damage.words)) << damage.pointer;
    EXPECT_THAT(std::string(status.message()), HasSubstr("test.json"));
  }
}

TEST(HostileFileTest, TextThatIsNoJson) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("\xFF\xFE"), std::string("[1]"),
        std::string("{\"model\": \"\\ud800\"}"), std::string(1'000'000, '['),
        absl::StrCat("{\"a\":", std::string(100, '['), std::string(100, ']'), "}")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Tokenizer::Parse(text, "test.json").status()))
        << text.substr(0, 20);
  }
}

TEST(HostileFileTest, SequencesEndSomewhere) {
  json nested = {{"type", "Lowercase"}};
  for (int i = 0; i < 20; ++i)
    nested = {{"type", "Sequence"}, {"normalizers", json::array({nested})}};
  json description = Small();
  description["normalizer"] = nested;
  EXPECT_THAT(std::string(ParseStatus(description).message()), HasSubstr("nested too deeply"));
}

TEST(PatternTest, ARegexThatBacktracksWithoutEndIsStopped) {
  auto evil = Pattern::Regex("(x+x+)+y(?=z)");
  ASSERT_TRUE(evil.ok()) << evil.status();
  const absl::Status status = evil->FindAll(std::string(5000, 'x') + "yw").status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST(PatternTest, EmptyMatchesDoNotLoop) {
  auto pattern = Pattern::Regex("b*");
  ASSERT_TRUE(pattern.ok());
  auto spans = pattern->FindAll("abba");
  ASSERT_TRUE(spans.ok()) << spans.status();
  EXPECT_EQ(spans->back().end, 4u);
}

TEST(PatternTest, ClassesKnowCharactersOfUnicode16) {
  for (const char* regex : {"\\p{L}", "[\\p{L}]", "\\w", "\\p{Lo}", "\\p{Han}", "[^\\P{L}]"}) {
    auto spans = Pattern::Regex(regex)->FindAll("\U00031350");
    ASSERT_TRUE(spans.ok());
    EXPECT_TRUE(spans->front().matched) << regex;
  }
  for (const char* regex : {"\\P{L}", "[^\\p{L}]", "\\W", "\\\\p{L}"}) {
    auto spans = Pattern::Regex(regex)->FindAll("\U00031350");
    ASSERT_TRUE(spans.ok());
    EXPECT_FALSE(spans->front().matched) << regex;
  }
}

TEST(UnicodeTest, ClassesFollowTheReferencesVersions) {
  EXPECT_TRUE(IsNumeric(0x16FF4));
  EXPECT_FALSE(IsPunctuation(0x61D));
  EXPECT_TRUE(IsPunctuation(0x166D));
  EXPECT_TRUE(IsWordCharacter(0x200D));
  EXPECT_FALSE(IsWordCharacter(0xB2));
  EXPECT_TRUE(IsCombiningMark(0x301));
  EXPECT_FALSE(IsCombiningMark(0x898));
  EXPECT_TRUE(IsCombiningMark(0x1CF2));
  std::string lower;
  AppendLowercase(0x130, &lower);
  AppendLowercase(0x10D50, &lower);
  EXPECT_EQ(lower, "i\u0307\U00010D70");
}

}  // namespace
}  // namespace quantd
