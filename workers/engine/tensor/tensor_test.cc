// The border to libtorch: exceptions to statuses, views, dtypes, devices, and what the machine
// allows.
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "workers/engine/checkpoint/test_util.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/collective.h"
#include "workers/engine/tensor/device.h"
#include "workers/engine/tensor/device_threads.h"
#include "workers/engine/tensor/dtype.h"
#include "workers/engine/tensor/host.h"
#include "workers/engine/tensor/torch_call.h"
#include "workers/engine/tensor/view.h"

namespace quantd::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TorchCall, PassesValuesAndStatusesThrough) {
  EXPECT_EQ(*TorchCall("counting", [] { return 3; }), 3);
  EXPECT_TRUE(TorchCall("nothing", [] {}).ok());
  EXPECT_TRUE(absl::IsNotFound(TorchCall("a status", [] { return absl::NotFoundError("x"); })));
  const absl::StatusOr<int> flat = TorchCall("flat", []() -> absl::StatusOr<int> { return 4; });
  EXPECT_EQ(*flat, 4);
}

TEST(TorchCall, TurnsExceptionsIntoStatuses) {
  const absl::Status shapes = TorchCall("multiplying", [] {
                                return at::matmul(at::rand({2, 3}), at::rand({4, 5}));
                              }).status();
  EXPECT_EQ(shapes.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(shapes.message()), HasSubstr("multiplying: "));
  EXPECT_LT(shapes.message().size(), 1100u);
  const absl::Status memory = TorchCall("growing", [] { throw std::bad_alloc(); });
  EXPECT_TRUE(IsOutOfMemory(memory)) << memory;
  EXPECT_FALSE(IsOutOfMemory(shapes));
  // More than any address space: the host allocator's own error.
  const absl::Status huge =
      TorchCall("taking all", [] { return at::full({int64_t{1} << 56}, 1.0f); }).status();
  EXPECT_TRUE(IsOutOfMemory(huge)) << huge;
  EXPECT_EQ(TorchCall("odd", [] { throw 7; }).code(), absl::StatusCode::kInternal);
}

TEST(View, SharesAlignedBytesAndCopiesOthers) {
  const std::vector<float> numbers = {1, 2, 3, 4, 5, 6};
  const auto* bytes = reinterpret_cast<const uint8_t*>(numbers.data());
  const auto aligned =
      ViewTensor({.dtype = DType::kF32, .shape = {2, 3}, .bytes = absl::MakeConstSpan(bytes, 24)});
  ASSERT_TRUE(aligned.ok());
  EXPECT_EQ(aligned->const_data_ptr(), numbers.data());
  EXPECT_EQ((*aligned)[1][2].item<float>(), 6);
  std::string shifted = "x" + std::string(reinterpret_cast<const char*>(bytes), 24);
  const auto copied = ViewTensor(
      {.dtype = DType::kF32,
       .shape = {2, 3},
       .bytes = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(shifted.data()) + 1, 24)});
  ASSERT_TRUE(copied.ok());
  EXPECT_TRUE(copied->equal(*aligned));
  const auto empty = ViewTensor({.dtype = DType::kI64, .shape = {0, 7}, .bytes = {}});
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->size(1), 7);
}

TEST(View, TensorsGoThroughAFileUnchanged) {
  const TempFolder folder;
  const std::string path = folder.path() + "/m.safetensors";
  // A transposed tensor: what is written are its elements in order, not its memory.
  const at::Tensor tensor = at::arange(6, at::kFloat).view({2, 3}).t().to(at::kBFloat16);
  const auto info = DescribeTensor("t", tensor);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->dtype, DType::kBF16);
  EXPECT_THAT(info->shape, ElementsAre(3, 2));
  auto writer = SafetensorsWriter::Create(path, {*info});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(WriteTensor(**writer, "t", tensor).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(ViewTensor(*(*file)->Find("t"))->equal(tensor));
}

TEST(Dtype, MapsBothWays) {
  for (int i = 0; i <= static_cast<int>(DType::kF64); ++i) {
    const DType dtype = static_cast<DType>(i);
    EXPECT_EQ(*ToDType(ToScalarType(dtype)), dtype);
    EXPECT_EQ(static_cast<int64_t>(c10::elementSize(ToScalarType(dtype))), DTypeBytes(dtype));
  }
  EXPECT_FALSE(ToDType(at::kComplexFloat).ok());
  EXPECT_EQ(*ParseComputeDtype("bfloat16"), at::kBFloat16);
  EXPECT_EQ(ComputeDtypeName(at::kHalf), "float16");
  EXPECT_THAT(std::string(ParseComputeDtype("int8").status().message()), HasSubstr("float32"));
}

TEST(Device, NamesAreChecked) {
  EXPECT_TRUE(SelectDevice("cpu")->is_cpu());
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cudax"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(SelectDevice(name).status())) << name;
  }
  const auto none = SelectDevice("cuda:99");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("device cuda:99: "));
  EXPECT_TRUE(SelectDevice("auto").ok());
}

TEST(Device, SeveralAreNamed) {
  EXPECT_EQ(SelectDevices("cpu")->size(), 1);
  EXPECT_EQ(SelectDevices("cpu,cpu,cpu")->size(), 3);
  EXPECT_TRUE(SelectDevice("cpu,cpu")->is_cpu());
  for (const char* names : {"", "cpu,", "cpu,tpu", "cuda:0;cuda:1"}) {
    const auto devices = SelectDevices(names);
    EXPECT_EQ(devices.ok(), *names == '\0') << names;
  }
  const size_t gpus = ListDevices().size() - 1;
  if (gpus == 0) {
    EXPECT_EQ(SelectDevices("cuda:all").status().code(), absl::StatusCode::kFailedPrecondition);
    return;
  }
  EXPECT_EQ(SelectDevices("cuda:all")->size(), gpus);
  EXPECT_TRUE(absl::IsInvalidArgument(SelectDevices("cuda:0,cuda:0").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SelectDevices("cpu,cuda:0").status()));
  const auto many = SelectDevices(absl::StrCat("cuda:0,cuda:", gpus));
  EXPECT_THAT(std::string(many.status().message()), HasSubstr("there is no device"));
}

TEST(DeviceThreads, AllWorkAndTheGravestErrorIsTold) {
  const std::vector<at::Device> devices(3, at::kCPU);
  DeviceThreads threads(devices);
  for (int round = 0; round < 3; ++round) {
    std::vector<int> done(3, 0);
    EXPECT_TRUE(threads
                    .Run([&](size_t i) {
                      ++done[i];
                      return absl::OkStatus();
                    })
                    .ok());
    EXPECT_EQ(done, std::vector<int>(3, 1));
  }
  const absl::Status memory = threads.Run(
      [](size_t i) { return i == 2 ? OutOfMemoryError("device 2 is full") : absl::OkStatus(); });
  EXPECT_TRUE(IsOutOfMemory(memory)) << memory;
  const absl::Status grave = threads.Run([](size_t i) {
    return i == 1 ? absl::DataLossError("a broken file") : OutOfMemoryError("full");
  });
  EXPECT_EQ(grave.code(), absl::StatusCode::kDataLoss) << grave;
}

// On the CPU, and between GPUs where there are several, through copies and through NCCL.
TEST(Collective, AddsUpAndFindsTheLargest) {
  std::vector<at::Device> devices(3, at::kCPU);
  std::vector<std::unique_ptr<Collective>> collectives;
  collectives.push_back(CopyingCollective());
  if (ListDevices().size() > 2) {
    devices = *SelectDevices("cuda:all");
    auto nccl = NcclCollective(devices);
    ASSERT_TRUE(nccl.ok()) << nccl.status();
    collectives.push_back(*std::move(nccl));
  }
  for (const auto& collective : collectives) {
    for (const auto operation : {Collective::Operation::kSum, Collective::Operation::kMax}) {
      std::vector<at::Tensor> parts;
      for (size_t i = 0; i < devices.size(); ++i) {
        parts.push_back(at::arange(5000, at::kFloat).to(devices[i]) * static_cast<double>(i + 1));
      }
      ASSERT_TRUE(collective->Reduce(operation, parts).ok());
      const auto count = static_cast<double>(devices.size());
      const double factor =
          operation == Collective::Operation::kSum ? count * (count + 1) / 2 : count;
      for (size_t i = 0; i < devices.size(); ++i) {
        // Whole numbers: exact in any order.
        EXPECT_EQ(parts[i].device(), devices[i]);
        EXPECT_TRUE(parts[i].cpu().equal(at::arange(5000, at::kFloat) * factor));
      }
    }
  }
}

TEST(Device, CpuIsListedFirstAndComputes) {
  const auto devices = ListDevices();
  ASSERT_FALSE(devices.empty());
  EXPECT_EQ(devices[0].type, "cpu");
  EXPECT_GT(devices[0].memory_bytes, 0);
  for (size_t i = 0; i < devices.size(); ++i) {
    const auto device = SelectDevice(i == 0 ? "cpu" : absl::StrCat("cuda:", i - 1));
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_TRUE(Canary(*device).ok());
    EXPECT_TRUE(Synchronize(*device).ok());
    EXPECT_TRUE(ReadDeviceMemory(*device).ok());
  }
}

TEST(Device, EqualSeedsGiveEqualNumbers) {
  ASSERT_TRUE(SetDeterministic(7).ok());
  const at::Tensor first = at::rand({8});
  ASSERT_TRUE(SetDeterministic(7).ok());
  EXPECT_TRUE(at::rand({8}).equal(first));
  ASSERT_TRUE(SetDeterministic(8).ok());
  EXPECT_FALSE(at::rand({8}).equal(first));
}

TEST(Host, MemoryIsMeasured) {
  ResetPeaks(at::kCPU);
  const int64_t before = ReadHostMemory().resident_peak_bytes;
  constexpr int64_t kBytes = 64 << 20;
  {
    const at::Tensor large = at::full({kBytes / 4}, 1.0f);
    EXPECT_GE(ReadHostMemory().resident_bytes, kBytes);
  }
  EXPECT_GE(ReadHostMemory().resident_peak_bytes, before + kBytes / 2);
  EXPECT_GT(ReadHostMemory().available_bytes, 0);
  EXPECT_GE(AvailableProcessors(), 1);
}

class Cgroup : public ::testing::Test {
 protected:
  void Add(const std::string& path, absl::string_view text) {
    const std::string whole = absl::StrCat(root_.path(), path);
    ASSERT_TRUE(MakeFolders(whole.substr(0, whole.rfind('/'))).ok());
    ASSERT_TRUE(WriteFileAtomic(whole, text).ok());
  }
  TempFolder root_;
};

TEST_F(Cgroup, NoneMeansNoLimit) {
  EXPECT_EQ(ProcessorsOfCgroup(root_.path(), 6), 6);
  EXPECT_EQ(AvailableBytesOfCgroup(root_.path(), 1000), 1000);
}

TEST_F(Cgroup, Version2TakesTheTightestOfAllLevels) {
  Add("/proc/self/cgroup", "0::/outer/inner\n");
  Add("/sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
  Add("/sys/fs/cgroup/outer/cpu.max", "150000 100000\n");
  Add("/sys/fs/cgroup/outer/inner/memory.max", "5000\n");
  Add("/sys/fs/cgroup/outer/inner/memory.current", "3000\n");
  Add("/sys/fs/cgroup/outer/inner/memory.stat", "anon 1\ninactive_file 500\n");
  Add("/sys/fs/cgroup/outer/memory.max", "max\n");
  Add("/sys/fs/cgroup/outer/memory.current", "3000\n");
  EXPECT_EQ(ProcessorsOfCgroup(root_.path(), 8), 2);  // One and a half, rounded up.
  EXPECT_EQ(AvailableBytesOfCgroup(root_.path(), 1 << 20), 2500);
  EXPECT_EQ(AvailableBytesOfCgroup(root_.path(), 100), 100);
}

TEST_F(Cgroup, Version1InAContainer) {
  Add("/proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n");
  Add("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
  Add("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  Add("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4000\n");
  Add("/sys/fs/cgroup/memory/memory.usage_in_bytes", "4500\n");
  EXPECT_EQ(ProcessorsOfCgroup(root_.path(), 8), 1);
  EXPECT_EQ(AvailableBytesOfCgroup(root_.path(), 1 << 20), 0);
}

}  // namespace
}  // namespace quantd::engine
