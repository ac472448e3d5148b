// GGUF files: what is written is read back, hostile and damaged files are refused with words that
// say why, and random damage never does worse than being refused.
#include "workers/engine/checkpoint/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/test_util.h"

namespace quantd::engine {
namespace {

using kernels::GgufType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Span<const uint8_t> Bytes(absl::string_view text) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

TEST(GgufTest, RoundTrip) {
  const TempFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  const GgufMetadata metadata = {
      {"general.architecture", GgufValue::String("llama")},
      {"a.count", GgufValue::U32(4'000'000'000)},
      {"a.eps", GgufValue::F32(0.5)},
      {"a.flag", GgufValue::Bool(true)},
      {"a.tokens", GgufValue::Strings({"<s>", "", "\xc4\xa0the"})},
      {"a.types", GgufValue::I32s({-1, 3})},
      {"a.scores", GgufValue::F32s({-0.25, 8})},
      {"a.long", {GgufValueType::kI64, false, int64_t{-5}}},
  };
  {
    auto writer = GgufWriter::Create(path, metadata,
                                     {{"x", GgufType::kQ4_0, {2, 32}},
                                      {"y", GgufType::kF32, {3}},
                                      {"z", GgufType::kF16, {1, 2, 2}}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE((*writer)->Append("y", Bytes(std::string(12, 'y'))).ok());
    EXPECT_TRUE((*writer)->Append("x", Bytes(std::string(18, '1'))).ok());
    EXPECT_THAT(std::string((*writer)->Finish().message()), HasSubstr("of its"));
    EXPECT_FALSE((*writer)->Append("x", Bytes(std::string(19, '2'))).ok());
    EXPECT_TRUE((*writer)->Append("x", Bytes(std::string(18, '2'))).ok());
    EXPECT_TRUE((*writer)->Append("z", Bytes(std::string(8, 'z'))).ok());
    EXPECT_FALSE((*writer)->Append("w", {}).ok());
    EXPECT_FALSE(FileExists(path));
    ASSERT_TRUE((*writer)->Finish().ok());
    EXPECT_EQ((*writer)->file_bytes(), *FileSize(path));
  }
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->names(), ElementsAre("x", "y", "z"));
  EXPECT_EQ((*file)->metadata().size(), metadata.size());
  for (const auto& [key, value] : metadata) {
    const GgufValue* read = (*file)->Value(key);
    ASSERT_NE(read, nullptr) << key;
    EXPECT_EQ(read->type, value.type) << key;
    EXPECT_EQ(read->is_array, value.is_array) << key;
    EXPECT_EQ(read->data, value.data) << key;
  }
  const GgufTensorView* x = (*file)->Find("x");
  ASSERT_NE(x, nullptr);
  EXPECT_EQ(x->type, GgufType::kQ4_0);
  EXPECT_THAT(x->shape, ElementsAre(2, 32));
  EXPECT_EQ(x->bytes.size(), 36u);
  EXPECT_EQ(x->bytes[17], '1');
  EXPECT_EQ(x->bytes[18], '2');
  EXPECT_THAT((*file)->Find("z")->shape, ElementsAre(1, 2, 2));
  EXPECT_EQ((*file)->Find("w"), nullptr);
}

TEST(GgufTest, WriterRefusesWhatNoReaderTakes) {
  const TempFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  const auto refused = [&](std::vector<GgufTensorInfo> tensors) {
    return std::string(GgufWriter::Create(path, {}, std::move(tensors)).status().message());
  };
  EXPECT_THAT(refused({{"x", GgufType::kQ4_0, {2, 33}}}), HasSubstr("no multiple of the 32"));
  EXPECT_THAT(refused({{"x", GgufType::kF32, {2}}, {"x", GgufType::kF32, {2}}}),
              HasSubstr("announced twice"));
  EXPECT_THAT(refused({{std::string(64, 'x'), GgufType::kF32, {2}}}), HasSubstr("more than 63"));
  EXPECT_THAT(refused({{"x", static_cast<GgufType>(99), {2}}}), HasSubstr("unknown type"));
}

// Files put together byte by byte.
struct Maker {
  std::string bytes = "GGUF";
  template <typename T>
  Maker& Put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Maker& Text(absl::string_view text) {
    Put<uint64_t>(text.size());
    absl::StrAppend(&bytes, text);
    return *this;
  }
  Maker& Header(uint64_t tensors, uint64_t metadata, uint32_t version = 3) {
    return Put(version).Put(tensors).Put(metadata);
  }
  Maker& Tensor(absl::string_view name, std::vector<uint64_t> shape, uint32_t type,
                uint64_t offset) {
    Text(name).Put(static_cast<uint32_t>(shape.size()));
    for (const uint64_t size : shape) Put(size);
    return Put(type).Put(offset);
  }
  Maker& Data(size_t count) {
    bytes.resize((bytes.size() + 31) / 32 * 32 + count);
    return *this;
  }
};
Maker Metadata(uint32_t type) { return Maker().Header(0, 1).Text("k").Put(type); }
std::string One(std::vector<uint64_t> shape, uint32_t type, uint64_t offset, size_t data) {
  return Maker().Header(1, 0).Tensor("t", std::move(shape), type, offset).Data(data).bytes;
}
std::string Two(uint64_t first, uint64_t second, size_t data) {
  return Maker()
      .Header(2, 0)
      .Tensor("a", {8}, 0, first)
      .Tensor("b", {8}, 0, second)
      .Data(data)
      .bytes;
}

struct Evil {
  const char* name;
  std::string bytes;
  const char* words;  // In the message.
};

constexpr uint64_t kHuge = ~uint64_t{0};

std::vector<Evil> HeaderCases() {
  return {
      {"Empty", "", "the file ends after 0"},
      {"ThreeBytes", "GGU", "the file ends after 3"},
      {"NoGguf", "PK\x03\x04 and more bytes", "is no GGUF file"},
      {"OnlyMagic", "GGUF", "the version"},
      {"VersionOne", Maker().Header(0, 0, 1).bytes, "version 1"},
      {"VersionFour", Maker().Header(0, 0, 4).bytes, "version 4"},
      {"BigEndian", Maker().Header(0, 0, 0x03000000).bytes, "big-endian"},
      {"CutInCounts", Maker().Put<uint32_t>(3).Put<uint32_t>(1).bytes, "the number of tensors"},
      {"ManyTensors", Maker().Header(500'001, 0).bytes, "at most 500000"},
      {"HugeTensors", Maker().Header(kHuge, 0).bytes, "18446744073709551615 tensors"},
      {"HugeMetadata", Maker().Header(0, kHuge).bytes, "at most"},
      {"TensorsMissing", Maker().Header(1, 0).bytes, "the name of tensor 0"},
      {"MetadataMissing", Maker().Header(0, 1).bytes, "the key of metadata 0"},
  };
}

std::vector<Evil> MetadataCases() {
  const auto array = [](uint32_t type, uint64_t count) {
    return Metadata(9).Put(type).Put(count).bytes;
  };
  return {
      {"KeyTooLong", Maker().Header(0, 1).Put(kHuge).bytes, "only 0 follow"},
      {"KeyBeyondFile", Maker().Header(0, 1).Put<uint64_t>(9).bytes + "abc", "only 3 follow"},
      {"KeyEmpty", Maker().Header(0, 1).Text("").bytes, "is not 1 to 65535"},
      {"KeyNotUtf8", Maker().Header(0, 1).Text("\xff").bytes, "UTF-8"},
      {"KeyOverLimit", Maker().Header(0, 1).Text(std::string(65'536, 'k')).bytes, "65535"},
      {"KeyTwice",
       Maker()
           .Header(0, 2)
           .Text("k")
           .Put<uint32_t>(0)
           .Put<uint8_t>(1)
           .Text("k")
           .Put<uint32_t>(0)
           .Put<uint8_t>(1)
           .bytes,
       "appears twice"},
      {"TypeUnknown", Metadata(13).bytes, "unknown type 13"},
      {"TypeHuge", Metadata(0xffffffff).bytes, "unknown type 4294967295"},
      {"ValueMissing", Metadata(4).bytes, "the file ends after 0"},
      {"BoolTwo", Metadata(7).Put<uint8_t>(2).bytes, "a bool of value 2"},
      {"BeyondSixtyThreeBits", Metadata(10).Put(kHuge).bytes, "beyond 63 bits"},
      {"StringHuge", Metadata(8).Put(kHuge).bytes, "only 0 follow"},
      {"StringWraps", Metadata(8).Put(kHuge - 7).bytes, "only 0 follow"},
      {"ArrayUnknown", array(77, 1), "an array of an unknown type (77)"},
      {"ArrayNested", array(9, 1), "array of arrays"},
      {"ArrayHuge", array(4, kHuge), "18446744073709551615 elements"},
      {"ArrayWraps", array(4, uint64_t{1} << 62), "elements, but only 0"},
      {"ArrayOfStringsHuge", array(8, uint64_t{1} << 61), "elements, but only 0"},
      {"ArrayCut", array(4, 2) + "1234", "2 elements, but only 4"},
      {"ArrayStringCut", array(8, 1) + std::string(8, '\x10'), "only 0 follow"},
      {"SplitModel",
       Maker().Header(0, 1).Text("split.count").Put<uint32_t>(2).Put<uint16_t>(3).bytes,
       "split model"},
      {"AlignmentZero",
       Maker().Header(0, 1).Text("general.alignment").Put<uint32_t>(4).Put<uint32_t>(0).bytes,
       "power of two"},
      {"AlignmentOdd",
       Maker().Header(0, 1).Text("general.alignment").Put<uint32_t>(4).Put<uint32_t>(24).bytes,
       "but is 24"},
      {"AlignmentText",
       Maker().Header(0, 1).Text("general.alignment").Put<uint32_t>(8).Text("32").bytes,
       "power of two"},
  };
}

std::vector<Evil> TensorCases() {
  return {
      {"NameEmpty", Maker().Header(1, 0).Tensor("", {1}, 0, 0).bytes, "is empty"},
      {"NameLong", Maker().Header(1, 0).Tensor(std::string(1025, 'n'), {1}, 0, 0).bytes,
       "longer than 1024"},
      {"NameControl", Maker().Header(1, 0).Tensor("a\nb", {1}, 0, 0).bytes, "control character"},
      {"NameTwice",
       Maker().Header(2, 0).Tensor("a", {8}, 0, 0).Tensor("a", {8}, 0, 32).Data(64).bytes,
       "appears twice"},
      {"FiveDimensions", One({1, 1, 1, 1, 1}, 0, 0, 4), "5 dimensions"},
      {"ManyDimensions", Maker().Header(1, 0).Text("t").Put(0xffffffffu).bytes,
       "4294967295 dimensions"},
      {"DimensionZero", One({0}, 0, 0, 0), "a dimension of 0"},
      {"DimensionHuge", One({kHuge}, 0, 0, 4), "a dimension of 18446744073709551615"},
      {"ProductOverflows", One({1ull << 32, 1ull << 32}, 0, 0, 4), "more elements"},
      {"ProductWraps", One({274177, 67280421310721ull}, 0, 0, 4), "more elements"},
      {"BytesOverflow", One({1ull << 62}, 0, 0, 4), "more bytes"},
      {"TypeRemoved", One({32}, 4, 0, 20), "has type 4"},
      {"TypeUnknown", One({32}, 1000, 0, 20), "has type 1000"},
      {"RowNoMultiple", One({48, 2}, 2, 0, 64), "48 columns are no multiple of the 32"},
      {"KRowNoMultiple", One({128, 2}, 12, 0, 144), "no multiple of the 256"},
      {"DataCut", One({64}, 0, 0, 255), "cut off or damaged"},
      {"OffsetBeyond", One({8}, 0, 64, 32), "the data only 32"},
      {"OffsetHuge", One({8}, 0, kHuge - 31, 32), "the data only 32"},
      {"OffsetUnaligned", One({8}, 0, 8, 64), "no multiple of the alignment"},
      {"Overlap", Two(0, 0, 64), "within another tensor"},
      {"Hole", Two(0, 64, 96), "after a hole from 32"},
      {"HoleAtStart", Two(32, 64, 96), "after a hole from 0"},
      {"Tail", Two(0, 32, 64 + 40), "40 bytes after the last tensor"},
      {"NoData", Maker().Header(1, 0).Tensor("t", {8}, 0, 0).bytes, "the data only 0"},
  };
}

class EvilGguf : public ::testing::TestWithParam<Evil> {};

TEST_P(EvilGguf, IsRefusedWithWords) {
  const TempFolder folder;
  const std::string path = folder.Add("model.gguf", GetParam().bytes);
  const absl::Status status = GgufFile::Open(path).status();
  EXPECT_TRUE(status.code() == absl::StatusCode::kDataLoss ||
              status.code() == absl::StatusCode::kUnimplemented)
      << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().words));
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_LT(status.message().size(), 1000u);
}

std::string CaseName(const ::testing::TestParamInfo<Evil>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Header, EvilGguf, ::testing::ValuesIn(HeaderCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Metadata, EvilGguf, ::testing::ValuesIn(MetadataCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Tensor, EvilGguf, ::testing::ValuesIn(TensorCases()), CaseName);

TEST(EvilGgufs, RandomDamageIsRefusedOrHarmless) {
  const uint32_t seed = std::random_device()();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const std::string good = Maker()
                               .Header(2, 3)
                               .Text("general.alignment")
                               .Put<uint32_t>(4)
                               .Put<uint32_t>(32)
                               .Text("tokens")
                               .Put<uint32_t>(9)
                               .Put<uint32_t>(8)
                               .Put<uint64_t>(2)
                               .Text("one")
                               .Text("two")
                               .Text("f")
                               .Put<uint32_t>(6)
                               .Put(1.5f)
                               .Tensor("a", {32, 2}, 2, 0)
                               .Tensor("b", {4}, 0, 64)
                               .Data(80)
                               .bytes;
  const TempFolder folder;
  const std::string path = folder.path() + "/m.gguf";
  std::ofstream(path, std::ios::binary) << good;
  ASSERT_TRUE(GgufFile::Open(path).ok()) << GgufFile::Open(path).status();
  int accepted = 0;
  constexpr int kRounds = 3'000;
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = good;
    for (int change = 1 + static_cast<int>(random() % 3); change > 0 && !bytes.empty(); --change) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 2:
          bytes.insert(at, std::string(1 + random() % 8, static_cast<char>(random())));
          break;
        case 3:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
          break;
      }
    }
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    const auto file = GgufFile::Open(path);
    if (!file.ok()) continue;
    ++accepted;
    uint64_t sum = 0;  // Touches every byte: a range outside the mapping would fault here.
    for (const std::string& name : (*file)->names()) {
      for (const uint8_t byte : (*file)->Find(name)->bytes) sum += byte;
    }
    EXPECT_LT(sum, uint64_t{1} << 32);
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, kRounds / 2);
}

}  // namespace
}  // namespace quantd::engine
