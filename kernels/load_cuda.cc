// Opens the CUDA module beside the program. A missing module, driver or GPU is no error here: the
// caller decides whether it needed one.
#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "kernels/device.h"

namespace quantd::kernels {
namespace {

constexpr const char* kModuleName = "libquantd_cuda.so";

struct Loaded {
  const CudaModule* module = nullptr;
  std::string why;
};

Loaded Load() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  void* library = nullptr;
  Loaded loaded;
  loaded.why = std::string(kModuleName) + " is not there: it is built where nvcc is found";
  for (const std::string& path : {(program.parent_path() / kModuleName).string(),
                                  (program.parent_path() / "../lib/quantd" / kModuleName).string(),
                                  std::string(kModuleName)}) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    const char* reason = dlerror();
    if (std::filesystem::exists(path, error)) loaded.why = reason;
  }
  if (library == nullptr) return loaded;
  loaded.why.clear();
  const auto entry = reinterpret_cast<CudaModuleEntry>(dlsym(library, kCudaModuleSymbol));
  if (entry == nullptr) {
    loaded.why = std::string(kModuleName) + " has no " + kCudaModuleSymbol;
    return loaded;
  }
  loaded.module = entry(&loaded.why);
  return loaded;
}

}  // namespace

const CudaModule* LoadCudaModule(std::string* why) {
  static const Loaded loaded = Load();
  if (why != nullptr) *why = loaded.why;
  return loaded.module;
}

}  // namespace quantd::kernels
