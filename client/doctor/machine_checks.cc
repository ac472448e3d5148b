// This machine: room on its disks, memory, GPU and driver, and the engine beside this program.
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "client/doctor/findings.h"
#include "client/engine_tool.h"
#include "nlohmann/json.hpp"

namespace quantd {
namespace {

constexpr int64_t kDiskBytesLow = int64_t{20} << 30;  // A small model, its copies and checkpoints.
constexpr int64_t kDiskBytesNone = int64_t{1} << 30;
// libtorch's CUDA half is of CUDA 13, which drivers of series 580 and later run.
constexpr int kCudaVersionMin = 13000;
constexpr char kDriverRemedy[] = "install NVIDIA's driver, series 580 or later";

std::string NearestFolder(std::filesystem::path path) {
  std::error_code error;
  while (!std::filesystem::exists(path, error) && path.has_relative_path()) {
    path = path.parent_path();
  }
  return path.string();
}

void CheckDisks(const Session& session, std::vector<Finding>* findings) {
  const auto or_default = [&](const char* name, const char* below_home) {
    const std::string value = session.Variable(name);
    return value.empty() ? absl::StrCat(session.Variable("HOME"), below_home) : value;
  };
  const std::pair<const char*, std::string> kUses[] = {
      {"data", or_default("XDG_DATA_HOME", "/.local/share") + "/quantd"},
      {"downloads", or_default("HF_HOME", "/.cache/huggingface")},
      {"temporary files", or_default("TMPDIR", "") + "/"}};
  std::set<dev_t> seen;
  for (const auto& [use, path] : kUses) {
    const std::string folder = NearestFolder(path == "/" ? "/tmp" : path);
    struct stat info {};
    if (stat(folder.c_str(), &info) != 0 || !seen.insert(info.st_dev).second) continue;
    const absl::StatusOr<int64_t> free = FreeDiskBytes(folder);
    if (!free.ok()) continue;
    findings->push_back(
        {"disk",
         *free < kDiskBytesNone  ? Verdict::kProblem
         : *free < kDiskBytesLow ? Verdict::kWarning
                                 : Verdict::kOk,
         absl::StrCat(FormatBytes(*free), " are free in ", folder, " (", use, ")"),
         *free < kDiskBytesLow
             ? "a job needs room for the model about three times: free some, or give --data and "
               "HF_HOME another disk"
             : ""});
  }
}

Finding CheckMemory() {
  const absl::StatusOr<std::string> text = ReadFile("/proc/meminfo", 1 << 20);
  int64_t kib = 0;
  for (const absl::string_view line : absl::StrSplit(text.ok() ? *text : "", '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() > 1 && words[0] == "MemAvailable:" && absl::SimpleAtoi(words[1], &kib)) break;
  }
  if (kib == 0) return {"memory", Verdict::kNote, "the system does not say how much is free"};
  return {"memory", Verdict::kOk, absl::StrCat(FormatBytes(kib << 10), " are available")};
}

// The driver alone: `devices` and `cuda` (13000 for 13.0) as it tells them.
struct Driver {
  bool loads = false;
  int cuda = 0;
  int result = 0;
  int devices = 0;
};

Driver AskDriver() {
  Driver driver;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return driver;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(library, "cuInit"));
  const auto version = reinterpret_cast<int (*)(int*)>(dlsym(library, "cuDriverGetVersion"));
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(library, "cuDeviceGetCount"));
  if (init == nullptr || version == nullptr || count == nullptr) return driver;
  driver.loads = true;
  version(&driver.cuda);
  driver.result = init(0);
  if (driver.result == 0) driver.result = count(&driver.devices);
  return driver;
}

std::string CudaText(int version) {
  return absl::StrCat("CUDA ", version / 1000, ".", version % 1000 / 10);
}

Finding CheckGpu() {
  const bool device = FileExists("/dev/nvidiactl");
  const Driver driver = AskDriver();
  if (!device && !driver.loads) {
    return {"gpu", Verdict::kNote, "no NVIDIA GPU here: work runs on the CPU",
            FileExists("/.dockerenv") || FileExists("/run/.containerenv")
                ? "in a container, start it with --gpus all (docker) or --device nvidia.com/gpu=all"
                : ""};
  }
  if (!device) {
    return {"gpu", Verdict::kNote, "NVIDIA's driver library is here and no GPU",
            "in a container, start it with --gpus all (docker) or --device nvidia.com/gpu=all"};
  }
  if (!driver.loads) {
    return {"gpu", Verdict::kProblem, "there is a GPU, and libcuda.so.1 does not load",
            absl::StrCat(kDriverRemedy,
                         "; in a container, use NVIDIA's container toolkit (--gpus all)")};
  }
  if (driver.result != 0 || driver.devices == 0) {
    return {"gpu", Verdict::kProblem,
            absl::StrCat("the driver starts no GPU (CUDA error ", driver.result, ")"),
            "look into dmesg for NVRM lines; restart the machine after a driver update"};
  }
  if (driver.cuda < kCudaVersionMin) {
    return {"gpu", Verdict::kProblem,
            absl::StrCat("the driver is for ", CudaText(driver.cuda), ", the engine for ",
                         CudaText(kCudaVersionMin)),
            kDriverRemedy};
  }
  return {"gpu", Verdict::kOk,
          absl::StrCat(driver.devices, driver.devices == 1 ? " GPU, " : " GPUs, ",
                       CudaText(driver.cuda))};
}

// What it can, as it says itself.
Finding CheckEngine() {
  const absl::StatusOr<std::string> program = FindEngine();
  if (!program.ok()) {
    return {"engine", Verdict::kNote, "there is no quant-engine on this machine",
            "only workers need it, and --dry-run's estimates"};
  }
  const absl::StatusOr<EngineRun> run = RunEngine({"capabilities"}, /*capture=*/true);
  const nlohmann::json catalog =
      run.ok() ? nlohmann::json::parse(run->output, nullptr, false) : nlohmann::json();
  if (!run.ok() || run->exit_code != 0 || !catalog.is_object()) {
    return {"engine", Verdict::kProblem, absl::StrCat(*program, " does not start"),
            "run `quant-engine capabilities`: it names the library that is missing"};
  }
  const std::string version = catalog.value("engineVersion", "");
  std::vector<std::string> devices;
  for (const nlohmann::json& device : catalog.value("devices", nlohmann::json::array())) {
    const std::string name = device.value("name", "");
    devices.push_back(name.empty() ? device.value("type", "") : name);
  }
  Finding finding{"engine", Verdict::kOk,
                  absl::StrCat(*program, " ", version, " on ", absl::StrJoin(devices, ", "))};
  if (version != QUANTD_VERSION) {
    finding.verdict = Verdict::kWarning;
    absl::StrAppend(&finding.text, "; quantctl is " QUANTD_VERSION);
    finding.remedy = "install the same version of both";
  }
  return finding;
}

}  // namespace

std::vector<Finding> CheckMachine(const Session& session) {
  std::vector<Finding> findings;
  CheckDisks(session, &findings);
  findings.push_back(CheckMemory());
  findings.push_back(CheckGpu());
  findings.push_back(CheckEngine());
  return findings;
}

}  // namespace quantd
