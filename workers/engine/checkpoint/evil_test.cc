// Hostile and damaged safetensors files: every one must be refused with words that say why, and
// random damage must never do worse than being refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "workers/engine/checkpoint/header_json.h"
#include "workers/engine/checkpoint/safetensors.h"
#include "workers/engine/checkpoint/test_util.h"

namespace quantd::engine {
namespace {

using ::testing::HasSubstr;

struct Evil {
  const char* name;
  std::string bytes;
  const char* words;  // In the message.
};

std::string Repeat(absl::string_view text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) absl::StrAppend(&all, text);
  return all;
}

// A file with the one tensor "a" described by `fields`, and `data_bytes` zeros.
std::string One(absl::string_view fields, int data_bytes) {
  return FileBytes(absl::StrCat("{\"a\":", fields, "}"), std::string(data_bytes, '\0'));
}

std::string Tensor(absl::string_view dtype, absl::string_view shape, absl::string_view offsets) {
  return absl::StrCat("{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", offsets,
                      "}");
}

// A file with two F32 tensors of 2 elements at the given places and `data_bytes` zeros.
std::string Two(absl::string_view first, absl::string_view second, int data_bytes) {
  return FileBytes(absl::StrCat("{\"a\":", Tensor("F32", "[2]", first),
                                ",\"b\":", Tensor("F32", "[2]", second), "}"),
                   std::string(data_bytes, '\0'));
}

std::string Named(absl::string_view name) {
  return FileBytes(absl::StrCat("{\"", name, "\":", Tensor("U8", "[1]", "[0,1]"), "}"), "x");
}

std::vector<Evil> LengthCases() {
  const std::string good = One(Tensor("F32", "[1]", "[0,4]"), 4);
  return {
      {"Empty", "", "has 0 bytes"},
      {"SevenBytes", std::string(7, '\0'), "has 7 bytes"},
      {"OnlyALength", FileBytes(10, "", ""), "only 0 follow"},
      {"LengthZero", FileBytes(0, "", "abc"), "does not begin with '{'"},
      {"LengthAllOnes", FileBytes(~uint64_t{0}, "{}", ""), "18446744073709551615 bytes"},
      {"LengthNegative", FileBytes(uint64_t{1} << 63, "{}", ""), "9223372036854775808 bytes"},
      {"LengthWrapsAtEight", FileBytes(~uint64_t{0} - 7, "{}", ""), "at most 100000000"},
      {"LengthAboveLimit", FileBytes(100'000'001, "{}", ""), "100000001 bytes; at most"},
      {"LengthAboveFile", FileBytes(3, "{}", ""), "only 2 follow"},
      {"LengthHuge", FileBytes(99'999'999, "{}", ""), "only 2 follow"},
      {"CutInHeader", good.substr(0, 30), "cut off or damaged"},
      {"CutInData", good.substr(0, good.size() - 1), "not a range within the 3 bytes"},
      {"LengthTooShort", FileBytes(5, "{\"a\":1}", ""), "not valid JSON"},
      {"BigEndianLength", std::string("\0\0\0\0\0\0\0\x02{}", 10), "at most"},
  };
}

std::vector<Evil> KindCases() {
  return {
      {"ZipRenamed", std::string("PK\x03\x04\x14\0\0\0\x08\0", 10) + "model/data.pkl",
       "ZIP archive"},
      {"PickleProtocol2", "\x80\x02}q\x01X\x05weights.", "Python pickle"},
      {"PickleProtocol4", "\x80\x04\x95\x10\x20\x30\x40\x50\x60", "Python pickle"},
      {"PickleProtocol5", "\x80\x05\x95\x10\x20\x30\x40\x50\x60", "Python pickle"},
      {"Gguf", std::string("GGUF\x03\0\0\0", 8) + "tensors", "GGUF"},
      {"Hdf5", "\x89HDF\r\n\x1a\n..........", "HDF5"},
      {"LfsPointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"},
      {"HtmlPage", "<!DOCTYPE html><html>Not found</html>", "HTML page"},
      {"HeaderIsArray", FileBytes("[]", ""), "does not begin with '{'"},
      {"HeaderBeginsWithSpace", FileBytes(" {}", ""), "does not begin with '{'"},
      {"HeaderBeginsWithBom", FileBytes("\xEF\xBB\xBF{}", ""), "does not begin with '{'"},
      {"HeaderIsNul", FileBytes(std::string(8, '\0'), ""), "does not begin with '{'"},
  };
}

std::vector<Evil> JsonCases() {
  const std::string tensor = Tensor("U8", "[1]", "[0,1]");
  return {
      {"NotJson", FileBytes("{a:1}", ""), "not valid JSON"},
      {"Unclosed", FileBytes("{\"a\":{", ""), "not valid JSON"},
      {"NulPadding", FileBytes(std::string("{}\0\0\0\0\0\0", 8), ""), "not valid JSON"},
      {"SecondObject", FileBytes("{}{}", ""), "not valid JSON"},
      {"TrailingComma", FileBytes("{\"a\":" + tensor + ",}", "x"), "not valid JSON"},
      {"Comment", FileBytes("{/* */}", ""), "not valid JSON"},
      {"InvalidUtf8", FileBytes("{\"\xff\":" + tensor + "}", "x"), "not valid UTF-8"},
      {"OverlongUtf8", FileBytes("{\"\xc0\xaf\":" + tensor + "}", "x"), "not valid UTF-8"},
      {"SurrogateUtf8", FileBytes("{\"\xed\xa0\x80\":" + tensor + "}", "x"), "not valid UTF-8"},
      {"LoneSurrogateEscape", Named("\\ud800"), "not valid JSON"},
      {"DeepArrays", FileBytes("{\"a\":" + Repeat("[", 100'000), ""), "must be an object"},
      {"DeepObjects", FileBytes(Repeat("{\"a\":", 100'000), ""), "dtype"},
      {"DeepInShape", One("{\"shape\":" + Repeat("[", 100'000), 0), "a dimension of shape"},
      {"DuplicateTensor", FileBytes("{\"a\":" + tensor + ",\"a\":" + tensor + "}", "x"),
       "names tensor \"a\" twice"},
      {"DuplicateByEscape", FileBytes("{\"a\":" + tensor + ",\"\\u0061\":" + tensor + "}", "x"),
       "names tensor \"a\" twice"},
      {"DuplicateDtype", One("{\"dtype\":\"U8\",\"dtype\":\"F32\"}", 0), "has dtype twice"},
      {"DuplicateShape", One("{\"shape\":[1],\"shape\":[2]}", 0), "has shape twice"},
      {"DuplicateOffsets", One("{\"data_offsets\":[0,1],\"data_offsets\":[0,2]}", 0),
       "has data_offsets twice"},
      {"DuplicateMetadata", FileBytes("{\"__metadata__\":{},\"__metadata__\":{}}", ""),
       "__metadata__ twice"},
      {"DuplicateMetadataKey", FileBytes("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", ""),
       "\"k\" twice"},
      {"MetadataNumber", FileBytes("{\"__metadata__\":{\"k\":1}}", ""), "must be a string"},
      {"MetadataObject", FileBytes("{\"__metadata__\":{\"k\":{}}}", ""), "must be a string"},
      {"MetadataIsString", FileBytes("{\"__metadata__\":\"x\"}", ""), "must be an object"},
      {"TensorIsNumber", FileBytes("{\"a\":1}", ""), "must be an object"},
      {"TensorIsNull", FileBytes("{\"a\":null}", ""), "must be an object"},
      {"TensorIsArray", FileBytes("{\"a\":[]}", ""), "must be an object"},
  };
}

std::vector<Evil> FieldCases() {
  return {
      {"UnknownDtype", One(Tensor("F33", "[1]", "[0,4]"), 4), "dtype \"F33\" is unknown"},
      {"LowerCaseDtype", One(Tensor("f32", "[1]", "[0,4]"), 4), "is unknown"},
      {"EmptyDtype", One(Tensor("", "[1]", "[0,4]"), 4), "is unknown"},
      {"NumericDtype", One("{\"dtype\":7}", 0), "dtype must be a string"},
      {"UnknownField", One("{\"dtype\":\"U8\",\"stride\":[1]}", 0), "unknown field \"stride\""},
      {"NoDtype", One("{\"shape\":[1],\"data_offsets\":[0,1]}", 1), "lacks dtype"},
      {"NoShape", One("{\"dtype\":\"U8\",\"data_offsets\":[0,1]}", 1), "lacks shape"},
      {"NoOffsets", One("{\"dtype\":\"U8\",\"shape\":[1]}", 1), "lacks data_offsets"},
      {"NegativeDimension", One(Tensor("F32", "[-1]", "[0,4]"), 4), "but is \"-1\""},
      {"TwoNegativeDimensions", One(Tensor("F32", "[-1,-1]", "[0,4]"), 4), "but is \"-1\""},
      {"FractionDimension", One(Tensor("F32", "[1.5]", "[0,4]"), 4), "but is \"1.5\""},
      {"ExponentDimension", One(Tensor("F32", "[1e0]", "[0,4]"), 4), "but is \"1e0\""},
      {"StringDimension", One(Tensor("F32", "[\"1\"]", "[0,4]"), 4), "a dimension of shape"},
      {"NullDimension", One(Tensor("F32", "[null]", "[0,4]"), 4), "a dimension of shape"},
      {"DimensionAbove63Bits", One(Tensor("U8", "[9223372036854775808]", "[0,0]"), 0),
       "9223372036854775808"},
      {"DimensionAbove64Bits", One(Tensor("U8", "[18446744073709551617]", "[0,1]"), 1),
       "18446744073709551617"},
      {"ProductOverflows", One(Tensor("U8", "[4294967296,4294967296]", "[0,0]"), 0),
       "more elements than"},
      {"ProductWrapsToOne", One(Tensor("U8", "[274177,67280421310721]", "[0,1]"), 1),
       "more elements than"},
      {"OverflowBeforeZero", One(Tensor("U8", "[4294967296,4294967296,0]", "[0,0]"), 0),
       "more elements than"},
      {"BytesOverflow", One(Tensor("F64", "[2305843009213693952]", "[0,0]"), 0), "more bytes than"},
      {"ManyDimensions", One(Tensor("U8", "[1" + Repeat(",1", 16) + "]", "[0,1]"), 1),
       "more than 16 dimensions"},
      {"ShapeIsNumber", One("{\"shape\":4}", 0), "shape must be an array"},
      {"ShapeIsObject", One("{\"shape\":{}}", 0), "shape must be an array"},
      {"EmptyName", Named(""), "is empty"},
      {"LongName", Named(std::string(1025, 'n')), "longer than 1024"},
      {"NulInName", Named("a\\u0000b"), "control character"},
      {"NewlineInName", Named("a\\nb"), "control character"},
  };
}

std::vector<Evil> PlaceCases() {
  return {
      {"OffsetsBackwards", One(Tensor("F32", "[1]", "[4,0]"), 4), "are not a range"},
      {"OffsetsBeyondFile", One(Tensor("F32", "[1]", "[0,4]"), 3), "are not a range"},
      {"OffsetsFarBeyond",
       One(Tensor("U8", "[1]", "[18446744073709551614,18446744073709551615]"), 1),
       "are not a range"},
      {"OffsetsNegative", One(Tensor("U8", "[1]", "[-1,0]"), 1), "data_offsets must be whole"},
      {"OffsetsFraction", One(Tensor("U8", "[1]", "[0,1.0]"), 1), "data_offsets must be whole"},
      {"OffsetsOne", One(Tensor("U8", "[1]", "[0]"), 1), "two numbers but are 1"},
      {"OffsetsThree", One(Tensor("U8", "[1]", "[0,1,2]"), 1), "two numbers but are more"},
      {"OffsetsNone", One(Tensor("U8", "[1]", "[]"), 1), "two numbers but are 0"},
      {"OffsetsString", One("{\"data_offsets\":\"0,1\"}", 1), "must be an array"},
      {"SizeTooSmall", One(Tensor("F32", "[2]", "[0,4]"), 4), "F32 [2] has 8"},
      {"SizeTooLarge", One(Tensor("F32", "[1]", "[0,8]"), 8), "F32 [1] has 4"},
      {"ZeroElementsWithBytes", One(Tensor("F32", "[0]", "[0,4]"), 4), "F32 [0] has 0"},
      {"ScalarTooLarge", One(Tensor("F32", "[]", "[0,8]"), 8), "F32 [] has 4"},
      {"Overlap", Two("[0,8]", "[4,12]", 12), "within another tensor"},
      {"SamePlace", Two("[0,8]", "[0,8]", 8), "within another tensor"},
      {"HoleBetween", Two("[0,8]", "[9,17]", 17), "after a hole from 8"},
      {"HoleAtStart", Two("[4,12]", "[12,20]", 20), "after a hole from 0"},
      {"Tail", Two("[0,8]", "[8,16]", 20), "4 bytes after the last tensor"},
      {"TrailingPickle",
       FileBytes("{\"a\":" + Tensor("U8", "[1]", "[0,1]") + "}", "x\x80\x04\x95payload."),
       "after the last tensor"},
      {"DataWithoutTensors", FileBytes("{}", "abcd"), "4 bytes after the last tensor"},
  };
}

class EvilFile : public ::testing::TestWithParam<Evil> {};

TEST_P(EvilFile, IsRefusedWithWords) {
  const TempFolder folder;
  const std::string path = folder.Add("model.safetensors", GetParam().bytes);
  const absl::Status status = SafetensorsFile::Open(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().words));
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_LT(status.message().size(), 1000u);
}

std::string CaseName(const ::testing::TestParamInfo<Evil>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Length, EvilFile, ::testing::ValuesIn(LengthCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Kind, EvilFile, ::testing::ValuesIn(KindCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Json, EvilFile, ::testing::ValuesIn(JsonCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Field, EvilFile, ::testing::ValuesIn(FieldCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Place, EvilFile, ::testing::ValuesIn(PlaceCases()), CaseName);

TEST(EvilFiles, AreManyAndDifferent) {
  const size_t count = LengthCases().size() + KindCases().size() + JsonCases().size() +
                       FieldCases().size() + PlaceCases().size();
  EXPECT_GE(count, 60u);
}

TEST(EvilFiles, TooManyTensorsAreRefusedEarly) {
  std::string header = "{";
  for (int64_t i = 0; i <= kTensorsPerFileMax; ++i) {
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"", i,
                    "\":", "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}");
  }
  const TempFolder folder;
  const absl::Status status =
      SafetensorsFile::Open(folder.Add("m.safetensors", FileBytes(header + "}", ""))).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("more than 500000 tensors"));
}

TEST(EvilFiles, WhatIsNoFileIsRefusedAndDoesNotHang) {
  const TempFolder folder;
  const std::string fifo = folder.path() + "/fifo.safetensors";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(std::string(SafetensorsFile::Open(fifo).status().message()),
              HasSubstr("not a regular file"));
  EXPECT_THAT(std::string(SafetensorsFile::Open(folder.path()).status().message()),
              HasSubstr("not a regular file"));
  EXPECT_TRUE(absl::IsNotFound(SafetensorsFile::Open(folder.path() + "/none").status()));
}

// A sparse file of a terabyte: only its header is read.
TEST(EvilFiles, SparseFileCostsNothing) {
  const TempFolder folder;
  const std::string path = folder.Add("m.safetensors", FileBytes("{}", ""));
  if (truncate(path.c_str(), int64_t{1} << 40) != 0) GTEST_SKIP() << "no sparse files here";
  EXPECT_THAT(std::string(SafetensorsFile::Open(path).status().message()),
              HasSubstr("after the last tensor"));
}

// Every byte of an accepted file is touched, so that a range outside the mapping would fault here.
uint64_t ReadAll(const SafetensorsFile& file) {
  uint64_t sum = 0;
  for (const std::string& name : file.names()) {
    for (const uint8_t byte : file.Find(name)->bytes) sum += byte;
  }
  return sum;
}

TEST(EvilFiles, RandomDamageIsRefusedOrHarmless) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const std::string good =
      FileBytes("{\"__metadata__\":{\"format\":\"pt\"},\"a\":" + Tensor("F32", "[2,3]", "[0,24]") +
                    ",\"b\":" + Tensor("BF16", "[4]", "[24,32]") +
                    ",\"c\":" + Tensor("I64", "[]", "[32,40]") + "}",
                std::string(40, 'x'));
  const std::vector<std::string> words = {
      "0",    "-1",  "18446744073709551615", "\"", "{", "}", "[", "]", ":", ",", "e9", "\\u0000",
      "null", "\xff"};
  const TempFolder folder;
  const std::string path = folder.path() + "/m.safetensors";
  int accepted = 0;
  constexpr int kRounds = 3'000;
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = good;
    const int changes = 1 + static_cast<int>(random() % 3);
    for (int change = 0; change < changes && !bytes.empty(); ++change) {
      const size_t at = random() % bytes.size();
      switch (random() % 5) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 2:
          bytes.insert(at, words[random() % words.size()]);
          break;
        case 3:
          bytes.resize(at + 1);
          break;
        case 4:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
          break;
      }
    }
    // A plain write: the durable one would make this test wait for the disk 3,000 times.
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    const absl::StatusOr<std::unique_ptr<SafetensorsFile>> file = SafetensorsFile::Open(path);
    if (file.ok()) {
      ++accepted;
      ReadAll(**file);
    } else {
      ASSERT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << file.status();
    }
  }
  // Damage to the data or to a name is not damage to the format, so some must pass; most must not.
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, kRounds / 2);
}

}  // namespace
}  // namespace quantd::engine
