// Reading, writing and sharding of good files; the hostile ones are in evil_test.cc.
#include "workers/engine/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/shards.h"
#include "workers/engine/checkpoint/test_util.h"

namespace quantd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<uint8_t> Bytes(size_t count, uint8_t first) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(first + i);
  return bytes;
}

TEST(Safetensors, WrittenInAnyOrderIsReadBack) {
  const TempFolder folder;
  const std::string path = folder.path() + "/model.safetensors";
  auto writer = SafetensorsWriter::Create(path, {{"odd", DType::kU8, {3}},
                                                 {"wide", DType::kF64, {2}},
                                                 {"empty", DType::kF32, {0, 5}},
                                                 {"scalar", DType::kBF16, {}}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_TRUE((*writer)->Write("scalar", Bytes(2, 50)).ok());
  EXPECT_TRUE((*writer)->Write("odd", Bytes(3, 1)).ok());
  EXPECT_TRUE((*writer)->Write("empty", {}).ok());
  EXPECT_FALSE(FileExists(path)) << "a file under its final name must be whole";
  EXPECT_TRUE((*writer)->Write("wide", Bytes(16, 100)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_EQ(*FileSize(path), (*writer)->file_bytes());

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  EXPECT_EQ((*file)->names().size(), 4u);
  EXPECT_THAT((*file)->Find("empty")->shape, ElementsAre(0, 5));
  EXPECT_TRUE((*file)->Find("scalar")->shape.empty());
  EXPECT_EQ((*file)->Find("none"), nullptr);
  const TensorView& wide = *(*file)->Find("wide");
  EXPECT_EQ(std::vector<uint8_t>(wide.bytes.begin(), wide.bytes.end()), Bytes(16, 100));
  // Every tensor is aligned to its dtype, because wider ones come first.
  for (const std::string& name : (*file)->names()) {
    const TensorView& view = *(*file)->Find(name);
    if (view.bytes.empty()) continue;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.bytes.data()) % DTypeBytes(view.dtype), 0u) << name;
  }
}

TEST(Safetensors, ReleasedPagesLeaveMemoryAndComeBack) {
  const TempFolder folder;
  const std::string path = folder.path() + "/model.safetensors";
  constexpr int64_t kBytes = 4 << 20;
  auto writer = SafetensorsWriter::Create(path, {{"large", DType::kU8, {kBytes}}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Write("large", std::vector<uint8_t>(kBytes, 7)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  const absl::Span<const uint8_t> bytes = (*file)->Find("large")->bytes;
  int64_t sum = 0;
  for (const uint8_t byte : bytes) sum += byte;
  EXPECT_EQ(sum, 7 * kBytes);
  (*file)->ReleasePages(bytes);
  sum = 0;
  for (const uint8_t byte : bytes) sum += byte;
  EXPECT_EQ(sum, 7 * kBytes);
}

TEST(SafetensorsWriter, RefusesWhatWasNotAnnounced) {
  const TempFolder folder;
  auto writer =
      SafetensorsWriter::Create(folder.path() + "/m.safetensors", {{"a", DType::kF32, {2}}});
  ASSERT_TRUE(writer.ok());
  EXPECT_THAT(std::string((*writer)->Write("b", Bytes(8, 0)).message()),
              HasSubstr("\"b\" was not announced"));
  EXPECT_THAT(std::string((*writer)->Write("a", Bytes(7, 0)).message()),
              HasSubstr("has 7 bytes but was announced with 8"));
  EXPECT_THAT(std::string((*writer)->Finish().message()), HasSubstr("never written"));
  EXPECT_TRUE((*writer)->Write("a", Bytes(8, 0)).ok());
  EXPECT_THAT(std::string((*writer)->Write("a", Bytes(8, 0)).message()),
              HasSubstr("written before"));
}

TEST(SafetensorsWriter, RefusesBadAnnouncements) {
  const TempFolder folder;
  const std::string path = folder.path() + "/m.safetensors";
  const auto create = [&](std::vector<TensorInfo> tensors) {
    return std::string(SafetensorsWriter::Create(path, std::move(tensors)).status().message());
  };
  EXPECT_THAT(create({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}), HasSubstr("twice"));
  EXPECT_THAT(create({{"a", DType::kU8, {-1}}}), HasSubstr("negative"));
  EXPECT_THAT(create({{"__metadata__", DType::kU8, {1}}}), HasSubstr("reserved"));
  EXPECT_THAT(create({{"", DType::kU8, {1}}}), HasSubstr("empty"));
}

TEST(SafetensorsWriter, AbandonedLeavesNothing) {
  const TempFolder folder;
  {
    auto writer =
        SafetensorsWriter::Create(folder.path() + "/m.safetensors", {{"a", DType::kU8, {9}}});
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriter, NoSpaceIsResourceExhausted) {
  // No disk holds an exbibyte; the writer must find out before the first tensor, or at the size
  // limit of the file system.
  const TempFolder folder;
  const absl::Status status = SafetensorsWriter::Create(folder.path() + "/m.safetensors",
                                                        {{"a", DType::kU8, {int64_t{1} << 60}}})
                                  .status();
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Shards, AreCutInOrderBelowTheLimit) {
  const auto plan = PlanShards({{"a", DType::kU8, {60}},
                                {"b", DType::kU8, {40}},
                                {"c", DType::kU8, {500}},
                                {"d", DType::kU8, {1}}},
                               100);
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].file_name, "model-00001-of-00003.safetensors");
  EXPECT_EQ(plan[0].tensors.size(), 2u);
  EXPECT_EQ(plan[1].tensors[0].name, "c");
  EXPECT_EQ(plan[2].tensors[0].name, "d");
}

TEST(Shards, OneFileHasNoIndex) {
  const auto plan = PlanShards({{"a", DType::kU8, {60}}}, 0);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].file_name, "model.safetensors");
  const TempFolder folder;
  EXPECT_TRUE(WriteShardIndex(folder.path(), plan).ok());
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_EQ(PlanShards({}, 10).size(), 1u);
}

TEST(DType, NamesAndSizesAgree) {
  for (int i = 0; i <= static_cast<int>(DType::kF64); ++i) {
    const DType dtype = static_cast<DType>(i);
    EXPECT_EQ(ParseDType(DTypeName(dtype)), dtype);
  }
  EXPECT_EQ(DTypeBytes(DType::kBF16), 2);
  EXPECT_EQ(DTypeBytes(DType::kF8E4M3), 1);
  EXPECT_EQ(ParseDType("F4"), std::nullopt);
}

}  // namespace
}  // namespace quantd::engine
