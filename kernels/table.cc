// A new variant is a cell here, or in the CUDA module's column (module_cuda.cu).
#include "kernels/table.h"

#include <cstdlib>

namespace quantd::kernels {
namespace {

// clang-format off
constexpr Backend kBackends[] = {
    {"reference", FindParamsReference, RtnRowsReference, PackBitsReference, UnpackBitsReference,
                  GptqBlockReference, DequantizeRowsReference,
                  GgufQuantizeReference, GgufDequantizeReference,
                  PackW4Reference, UnpackW4Reference, GemmW4A16Reference},
    {"cpu",       FindParamsCpu,       RtnRowsCpu,       PackBitsCpu,       UnpackBitsCpu,
                  GptqBlockCpu,       DequantizeRowsCpu,
                  GgufQuantizeCpu,    GgufDequantizeCpu},
};
// clang-format on

ActiveBackend ReadEnvironment() {
  const Backend* cpu = FindBackend("cpu");
  const char* value = std::getenv("QUANTD_BACKEND");
  const std::string forced = value == nullptr ? "" : value;
  if (forced.empty()) return {.backend = cpu, .error = {}, .forced = {}};
  if (forced == "cuda") {
    std::string why;
    const bool there = LoadCudaModule(&why) != nullptr;
    return {.backend = cpu,
            .error = there ? "" : "QUANTD_BACKEND=cuda is impossible here: " + why,
            .forced = forced};
  }
  if (const Backend* backend = FindBackend(forced)) {
    return {.backend = backend, .error = {}, .forced = forced};
  }
  return {.backend = cpu,
          .error = "QUANTD_BACKEND=" + forced + " names no set of kernels; there are reference, " +
                   "cpu and cuda",
          .forced = forced};
}

}  // namespace

const Backend* FindBackend(std::string_view name) {
  for (const Backend& backend : kBackends) {
    if (backend.name == name) return &backend;
  }
  if (name != "cuda") return nullptr;
  const CudaModule* module = LoadCudaModule(nullptr);
  return module == nullptr ? nullptr : module->backend;
}

bool Complete(const Backend& backend) {
  return backend.find_params && backend.rtn_rows && backend.pack_bits && backend.unpack_bits &&
         backend.gptq_block && backend.dequantize_rows && backend.gguf_quantize &&
         backend.gguf_dequantize;
}

const ActiveBackend& Active() {
  static const ActiveBackend active = ReadEnvironment();
  return active;
}

const Backend* ActiveOnDevice() {
  return Active().forced == "cuda" ? FindBackend("cuda") : nullptr;
}

}  // namespace quantd::kernels
