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
                  Int8RowsReference, HadamardRowsReference,
                  GemmW4A32Reference, UnpackW4A32Reference,
                  PackW4Reference, UnpackW4Reference, GemmW4A16Reference,
                  QuantizeRowsReference, GemmW8A8Reference, NormRowsReference,
                  GateRowsReference, RopeHeadsReference, LogProbRowsReference, EmbedRowsReference,
                  StepProductReference, StepAttentionReference},
    {"cpu",       FindParamsCpu,       RtnRowsCpu,       PackBitsCpu,       UnpackBitsCpu,
                  GptqBlockCpu,       DequantizeRowsCpu,
                  GgufQuantizeCpu,    GgufDequantizeCpu,
                  QuantizeCodebookCpu, DequantizeCodebookCpu, HqqGroupsCpu, Int8RowsCpu,
                  HadamardRowsCpu, GemmW4A32Cpu, UnpackW4A32Cpu},
};
// clang-format on

ActiveBackend ReadEnvironment() {
  const char* value = std::getenv("QUANTD_BACKEND");
  ActiveBackend active = {FindBackend("cpu"), value == nullptr ? "" : value, {}};
  if (active.forced.empty()) return active;
  if (active.forced == "cuda") {
    std::string why;
    if (LoadCudaModule(&why) == nullptr) active.error = "QUANTD_BACKEND=cuda: " + why;
    return active;
  }
  if (const Backend* backend = FindBackend(active.forced)) {
    active.backend = backend;
  } else {
    active.error = "QUANTD_BACKEND=" + active.forced + ": there are reference, cpu and cuda";
  }
  return active;
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

const Backend* ActiveOnDevice() {
  const std::string& forced = Active().forced;
  return forced.empty() || forced == "cuda" ? FindBackend("cuda") : nullptr;
}

const ActiveBackend& Active() {
  static const ActiveBackend active = ReadEnvironment();
  return active;
}

}  // namespace quantd::kernels
