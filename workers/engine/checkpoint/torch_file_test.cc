// State dictionaries of torch.save: what is written comes back, through a checkpoint folder too;
// and no pickle or archive that is anything else is believed.
#include "workers/engine/checkpoint/torch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "workers/engine/checkpoint/checkpoint.h"
#include "workers/engine/checkpoint/pickle.h"
#include "workers/engine/checkpoint/shards.h"
#include "workers/engine/checkpoint/test_util.h"

namespace quantd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A literal with all of its bytes, zeros too.
template <size_t kSize>
std::string Raw(const char (&text)[kSize]) {
  return std::string(text, kSize - 1);
}

absl::Span<const uint8_t> Bytes(absl::string_view text) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

const std::vector<TensorInfo>& Tensors() {
  static const auto& tensors = *new std::vector<TensorInfo>{
      {"a.weight", DType::kF16, {2, 3}}, {"b", DType::kF32, {}}, {"empty", DType::kI64, {0, 4}}};
  return tensors;
}

std::string Write(const TempFolder& folder) {
  const std::string path = folder.path() + "/pytorch_model.bin";
  auto writer = TorchWriter::Create(path, Tensors()).value();
  EXPECT_TRUE(writer->Write("a.weight", Bytes("123456789abc")).ok());
  EXPECT_TRUE(writer->Write("b", Bytes("wxyz")).ok());
  EXPECT_TRUE(writer->Write("empty", {}).ok());
  EXPECT_TRUE(writer->Finish().ok());
  return path;
}

TEST(TorchFileTest, RoundTrip) {
  const TempFolder folder;
  const auto file = TorchFile::Open(Write(folder));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->names(), ElementsAre("a.weight", "b", "empty"));
  const TensorView* view = (*file)->Find("a.weight");
  ASSERT_NE(view, nullptr);
  EXPECT_EQ(view->dtype, DType::kF16);
  EXPECT_THAT(view->shape, ElementsAre(2, 3));
  EXPECT_EQ(view->bytes, Bytes("123456789abc"));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view->bytes.data()) % 64, 0);
  EXPECT_EQ((*file)->Find("b")->bytes, Bytes("wxyz"));
  EXPECT_EQ((*file)->Find("none"), nullptr);
}

TEST(TorchFileTest, TheWriterKeepsToWhatWasAnnounced) {
  const TempFolder folder;
  auto writer = TorchWriter::Create(folder.path() + "/x.bin", Tensors()).value();
  EXPECT_FALSE(writer->Write("b", Bytes("wxyz")).ok());
  EXPECT_FALSE(writer->Write("a.weight", Bytes("short")).ok());
  EXPECT_FALSE(writer->Finish().ok());
  EXPECT_FALSE(TorchWriter::Create(folder.path() + "/y.bin", {{"w", DType::kU32, {1}}}).ok());
}

TEST(TorchFileTest, CutAndFlippedFilesAreRefusedOrHarmless) {
  const TempFolder folder;
  const std::string path = Write(folder);
  const std::string whole = ReadFile(path, 1 << 20).value();
  const std::string damaged = folder.path() + "/damaged.bin";
  for (size_t size = 0; size < whole.size(); size += 61) {
    std::ofstream(damaged, std::ios::binary | std::ios::trunc) << whole.substr(0, size);
    EXPECT_FALSE(TorchFile::Open(damaged).ok()) << size;
  }
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    std::string bytes = whole;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    std::ofstream(damaged, std::ios::binary | std::ios::trunc) << bytes;
    const auto file = TorchFile::Open(damaged);
    if (!file.ok()) continue;
    for (const std::string& name : (*file)->names()) {
      for (const uint8_t byte : (*file)->Find(name)->bytes) ASSERT_LE(byte, 255);
    }
  }
}

TEST(PickleTest, OnlyDictionariesOfTensorsAreRead) {
  struct Case {
    std::string body;
    const char* message;
  };
  const Case cases[] = {
      {"cos\nsystem\n(tR.", "os.system"},
      {"cbuiltins\neval\n.", "builtins.eval"},
      {"ctorch\nload\n.", "torch.load"},
      {Raw("}(X\x01\0\0\0wK\x01u."), "is no tensor"},
      {"N.", "not a dictionary"},
      {".", "not a dictionary"},
      {"", "ends too early"},
      {"R", "empty stack"},
      {"h\x01", "recalls"},
      {"]", "refused"},
      {"\x93", "refused"},
      {Raw("X\xff\xff\xff\xff short"), "ends too early"},
      {Raw("\x8a\x09 12345678"), "64 bits"},
      {"t", "needs a mark"},
      {"u", "needs a mark"},
      {"NNNs", "dictionary"},
      {"(NtQ", "no storage"},
      {"Nb", "attributes"},
  };
  for (const Case& item : cases) {
    const absl::Status status = ReadStateDict("\x80\x02" + item.body).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(item.message)) << status;
  }
  EXPECT_FALSE(ReadStateDict("\x80\x04}.").ok());
}

TEST(PickleTest, MemoTuplesAndAttributesAsTorchWritesThem) {
  // OrderedDict() with one tensor, put and got from the memo, and _metadata built on.
  std::string pickle = "\x80\x02";
  pickle += Raw("ccollections\nOrderedDict\nq\x00)Rq\x01(");
  pickle += Raw("X\x01\0\0\0wq\x02");
  pickle += Raw("ctorch._utils\n_rebuild_tensor_v2\nq\x03(");
  pickle += Raw("(X\x07\0\0\0storageq\x04");
  pickle += Raw("ctorch\nBFloat16Storage\nq\x05X\x01\0\0\0007q\x06");
  pickle += Raw("X\x03\0\0\0cpuq\x07K\x06tq\x08QK\x02K\x02K\x02\x86q\x09");
  pickle += Raw("K\x02K\x01\x86q\x0a\x89h\x00)Rq\x0btq\x0cRq\x0du}");
  pickle += Raw("X\x09\0\0\0_metadatah\x00)Rsb.");
  const auto tensors = ReadStateDict(pickle);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 1);
  EXPECT_EQ((*tensors)[0].name, "w");
  EXPECT_EQ((*tensors)[0].dtype, DType::kBF16);
  EXPECT_EQ((*tensors)[0].storage, "7");
  EXPECT_EQ((*tensors)[0].storage_elements, 6);
  EXPECT_EQ((*tensors)[0].offset, 2);
  EXPECT_THAT((*tensors)[0].shape, ElementsAre(2, 2));
  EXPECT_THAT((*tensors)[0].strides, ElementsAre(2, 1));
}

TEST(PickleTest, WhatIsWrittenIsRead) {
  const auto pickle = WriteStateDict(Tensors());
  ASSERT_TRUE(pickle.ok());
  const auto back = ReadStateDict(*pickle);
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->size(), 3);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ((*back)[i].name, Tensors()[i].name);
    EXPECT_EQ((*back)[i].dtype, Tensors()[i].dtype);
    EXPECT_EQ((*back)[i].shape, Tensors()[i].shape);
    EXPECT_EQ((*back)[i].storage, absl::StrCat(i));
  }
}

}  // namespace
}  // namespace quantd::engine
