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
                  QuantizeCodebookReference, DequantizeCodebookReference, HqqGroupsReference,
                  Int8RowsReference,
                  PackW4Reference, UnpackW4Reference, GemmW4A16Reference,
                  QuantizeRowsReference, GemmW8A8Reference},
    {"cpu",       FindParamsCpu,       RtnRowsCpu,       PackBitsCpu,       UnpackBitsCpu,
                  GptqBlockCpu,       DequantizeRowsCpu,
                  GgufQuantizeCpu,    GgufDequantizeCpu,
                  QuantizeCodebookCpu, DequantizeCodebookCpu, HqqGroupsCpu, Int8RowsCpu},
};
// clang-format on

ActiveBackend ReadEnvironment() {
  const Backend* cpu = FindBackend("cpu");
  const char* forced = std::getenv("QUANTD_BACKEND");
  if (forced == nullptr || *forced == '\0') return {.backend = cpu, .error = {}};
  const Backend* backend = FindBackend(forced);
  if (backend != nullptr && Complete(*backend)) return {.backend = backend, .error = {}};
  return {.backend = cpu,
          .error = "QUANTD_BACKEND=" + std::string(forced) +
                   " names no complete set of the quantizers' kernels; reference and cpu are"};
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
         backend.gguf_dequantize && backend.quantize_codebook && backend.dequantize_codebook &&
         backend.hqq_groups && backend.int8_rows;
}

const ActiveBackend& Active() {
  static const ActiveBackend active = ReadEnvironment();
  return active;
}

}  // namespace quantd::kernels
