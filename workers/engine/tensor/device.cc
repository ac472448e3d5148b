// Devices through the driver's own library for what there is, and through libtorch for what this
// process uses.
#include "workers/engine/tensor/device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "workers/engine/job/failure.h"
#include "workers/engine/tensor/host.h"
#include "workers/engine/tensor/torch_call.h"

namespace quantd::engine {
namespace {

// The NVIDIA driver's API, as far as listing goes. Opened at run time: the library is part of the
// driver.
class Driver {
 public:
  static const Driver& Get() {
    static const Driver driver;
    return driver;
  }
  int device_count() const { return device_count_; }
  // Why there is no device; empty when there is one.
  const std::string& problem() const { return problem_; }
  DeviceInfo Info(int device) const;

 private:
  Driver();
  template <typename F>
  bool Load(const char* name, F* function) {
    *function = reinterpret_cast<F>(dlsym(library_, name));
    return *function != nullptr;
  }
  void* library_ = nullptr;
  int device_count_ = 0;
  std::string problem_;
  int (*init_)(unsigned) = nullptr;
  int (*get_count_)(int*) = nullptr;
  int (*get_name_)(char*, int, int) = nullptr;
  int (*get_memory_)(size_t*, int) = nullptr;
  int (*get_attribute_)(int*, int, int) = nullptr;
};

Driver::Driver() {
  library_ = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library_ == nullptr) {
    problem_ = "the NVIDIA driver's library libcuda.so.1 is not installed";
    return;
  }
  if (!Load("cuInit", &init_) || !Load("cuDeviceGetCount", &get_count_) ||
      !Load("cuDeviceGetName", &get_name_) || !Load("cuDeviceTotalMem_v2", &get_memory_) ||
      !Load("cuDeviceGetAttribute", &get_attribute_)) {
    problem_ = "libcuda.so.1 lacks functions that every NVIDIA driver has";
    return;
  }
  if (const int error = init_(0); error != 0) {
    problem_ = absl::StrCat("the NVIDIA driver does not start (cuInit error ", error, ")");
    return;
  }
  if (get_count_(&device_count_) != 0) device_count_ = 0;
  if (device_count_ == 0) problem_ = "the NVIDIA driver sees no device";
}

std::string DriverVersion() {
  // "NVRM version: NVIDIA UNIX ... Kernel Module  580.65.06  ..."
  const absl::StatusOr<std::string> text = ReadFile("/proc/driver/nvidia/version", 4096);
  if (!text.ok()) return "";
  for (const absl::string_view word : absl::StrSplit(*text, absl::ByAnyChar(" \n"))) {
    double number = 0;
    const std::pair<absl::string_view, absl::string_view> halves =
        absl::StrSplit(word, absl::MaxSplits('.', 1));
    if (!halves.second.empty() && absl::SimpleAtod(halves.first, &number) && number >= 100) {
      return std::string(word);
    }
  }
  return "";
}

DeviceInfo Driver::Info(int device) const {
  constexpr int kComputeMajor = 75,
                kComputeMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*.
  char name[256] = "";
  size_t bytes = 0;
  int major = 0, minor = 0;
  get_name_(name, sizeof name, device);
  get_memory_(&bytes, device);
  get_attribute_(&major, kComputeMajor, device);
  get_attribute_(&minor, kComputeMinor, device);
  return {.type = "cuda",
          .name = name,
          .memory_bytes = static_cast<int64_t>(bytes),
          .compute_capability = absl::StrCat(major, ".", minor),
          .driver_version = DriverVersion()};
}

absl::Status NotHere(absl::string_view why) {
  return WithRemedy(absl::FailedPreconditionError(why),
                    "Choose a device that this machine has (--device cpu, runtime.device in "
                    "specs), or run it where there is such a GPU.");
}

// Opens libtorch's CUDA half beside its CPU half, once. Its static initialisers register the CUDA
// operators.
absl::Status LoadTorchCuda() {
  static const absl::Status status = [] {
    Dl_info info{};
    std::string path = "libtorch_cuda.so";
    if (dladdr(reinterpret_cast<void*>(&at::globalContext), &info) != 0 &&
        info.dli_fname != nullptr) {
      const std::string torch_cpu = info.dli_fname;
      const size_t slash = torch_cpu.rfind('/');
      if (slash != std::string::npos) path = torch_cpu.substr(0, slash + 1) + path;
    }
    if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      return NotHere(absl::StrCat("libtorch's CUDA half does not load: ", dlerror()));
    }
    // cuBLAS is only deterministic with a fixed workspace, and reads this when its first handle is
    // made.
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    KeepFreedMemory();
    return absl::OkStatus();
  }();
  return status;
}

absl::StatusOr<at::Device> SelectCuda(int index) {
  const Driver& driver = Driver::Get();
  if (driver.device_count() == 0) return NotHere(driver.problem());
  if (index >= driver.device_count()) {
    return NotHere(
        absl::StrCat("there is no device ", index, ", only 0 to ", driver.device_count() - 1));
  }
  QD_RETURN_IF_ERROR(LoadTorchCuda());
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  QD_RETURN_IF_ERROR(
      TorchCall("starting the device", [&] { at::globalContext().lazyInitDevice(at::kCUDA); }));
  QD_RETURN_IF_ERROR(UseDevice(device));
  return device;
}

absl::Status Unknown(absl::string_view name) {
  return absl::InvalidArgumentError(
      absl::StrCat("device \"", name,
                   "\" is unknown; known: auto, cpu, cuda, cuda:N, several as cuda:0,cuda:1, and "
                   "cuda:all"));
}

absl::StatusOr<at::Device> SelectOne(absl::string_view name) {
  if (name == "cpu") return at::Device(at::kCPU);
  if (name.empty() || name == "auto") {
    if (Driver::Get().device_count() == 0) return at::Device(at::kCPU);
    absl::StatusOr<at::Device> device = SelectCuda(0);
    if (device.ok()) return device;
    LogWarning("the GPU cannot be used, the CPU is", {{"reason", device.status().message()}});
    return at::Device(at::kCPU);
  }
  int index = 0;
  const bool numbered = absl::ConsumePrefix(&name, "cuda:");
  if (name != "cuda" && (!numbered || !absl::SimpleAtoi(name, &index) || index < 0)) {
    return Unknown(numbered ? absl::StrCat("cuda:", name) : name);
  }
  absl::StatusOr<at::Device> device = SelectCuda(index);
  if (!device.ok()) return Annotate(device.status(), absl::StrCat("device cuda:", index));
  return device;
}

// libtorch opens these libraries at their first use, and fails where two threads come first.
absl::Status LoadLinearAlgebra(at::Device gpu) {
  return TorchCall("loading linear algebra", [&] {
    at::linalg_cholesky_ex(at::ones({1, 1}, at::TensorOptions().device(gpu)));
  });
}

std::string AllGpus() {
  std::vector<std::string> names;
  for (int i = 0; i < std::max(1, Driver::Get().device_count()); ++i) {
    names.push_back(absl::StrCat("cuda:", i));
  }
  return absl::StrJoin(names, ",");
}

}  // namespace

absl::Status UseDevice(at::Device device) {
  if (device.is_cpu()) return absl::OkStatus();
  return TorchCall(absl::StrCat("switching to ", device.str()),
                   [&] { at::accelerator::setDeviceIndex(device.index()); });
}

absl::StatusOr<at::Device> SelectDevice(absl::string_view name) {
  return SelectOne(name == "cuda:all" ? "cuda:0" : name.substr(0, name.find(',')));
}

absl::StatusOr<std::vector<at::Device>> SelectDevices(absl::string_view names) {
  const std::string all = names == "cuda:all" ? AllGpus() : std::string(names);
  const std::vector<std::string> parts = absl::StrSplit(all, ',');
  std::vector<at::Device> devices;
  for (const std::string& name : parts) {
    if (parts.size() > 1 && (name.empty() || name == "auto")) return Unknown(names);
    QD_ASSIGN_OR_RETURN(const at::Device device, SelectOne(name));
    const bool again = std::find(devices.begin(), devices.end(), device) != devices.end();
    if (!devices.empty() && (device.type() != devices[0].type() || (again && device.is_cuda()))) {
      return absl::InvalidArgumentError(
          absl::StrCat("devices \"", names, "\": must be different GPUs"));
    }
    devices.push_back(device);
  }
  if (devices.size() > 1 && devices[0].is_cuda()) QD_RETURN_IF_ERROR(LoadLinearAlgebra(devices[0]));
  QD_RETURN_IF_ERROR(UseDevice(devices[0]));
  return devices;
}

std::vector<DeviceInfo> ListDevices() {
  std::vector<DeviceInfo> devices = {HostDevice()};
  for (int i = 0; i < Driver::Get().device_count(); ++i) devices.push_back(Driver::Get().Info(i));
  return devices;
}

void SetThreads(int threads) { at::set_num_threads(threads > 0 ? threads : AvailableProcessors()); }

absl::Status SetDeterministic(uint64_t seed) {
  return TorchCall("making operators deterministic", [&] {
    at::Context& context = at::globalContext();
    // Operators without a deterministic form warn instead of failing a job that has run for hours.
    context.setDeterministicAlgorithms(true, /*warn_only=*/true);
    // Filling every new tensor is a debugging aid and costs a pass over memory.
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(true);
    context.setBenchmarkCuDNN(false);
    at::manual_seed(seed);
  });
}

absl::StatusOr<DeviceMemory> ReadDeviceMemory(at::Device device) {
  DeviceMemory memory;
  if (device.is_cpu()) return memory;
  QD_RETURN_IF_ERROR(TorchCall("reading the device's memory", [&] {
    const auto aggregate = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    c10::DeviceAllocator* allocator = c10::getDeviceAllocator(device.type());
    const auto [free_bytes, total_bytes] = allocator->getMemoryInfo(device.index());
    const auto stats = allocator->getDeviceStats(device.index());
    memory.free_bytes = static_cast<int64_t>(free_bytes);
    memory.total_bytes = static_cast<int64_t>(total_bytes);
    memory.allocated_bytes = stats.allocated_bytes[aggregate].current;
    memory.peak_bytes = stats.allocated_bytes[aggregate].peak;
  }));
  return memory;
}

void ResetPeaks(at::Device device) {
  ResetHostPeak();
  if (device.is_cpu()) return;
  TorchCall("resetting peaks", [&] {
    c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
  }).IgnoreError();
}

void EmptyDeviceCache(at::Device device) {
  if (device.is_cpu()) return;
  TorchCall("emptying the cache", [&] {
    c10::getDeviceAllocator(device.type())->emptyCache();
  }).IgnoreError();
}

absl::Status Synchronize(at::Device device) {
  if (device.is_cpu()) return absl::OkStatus();
  return TorchCall("waiting for the device",
                   [&] { at::accelerator::synchronizeDevice(device.index()); });
}

absl::Status Canary(at::Device device) {
  // 64 products of values around 1 in float32: the sums are around 8, their rounding around 64 *
  // 2^-24 * 8 = 3e-5.
  constexpr int64_t kSize = 64;
  constexpr double kErrorMax = 1e-3;
  absl::StatusOr<double> error = TorchCall("trying the device", [&]() -> double {
    const at::Tensor a = at::randn({kSize, kSize});
    const at::Tensor b = at::randn({kSize, kSize});
    const at::Tensor here = at::matmul(a.to(device), b.to(device)).cpu().to(at::kDouble);
    const at::Tensor expected = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
    return (here - expected).abs().max().item<double>();
  });
  if (!error.ok()) return error.status();
  if (*error <= kErrorMax) return absl::OkStatus();
  return WithErrorClass(
      absl::InternalError(absl::StrCat("device ", device.str(), " multiplies wrongly: error ",
                                       *error, " where ", kErrorMax, " is allowed")),
      ErrorClass::kDeviceFault);
}

}  // namespace quantd::engine
