// The one dispatch table: every operation in every variant. QUANTD_BACKEND=reference|cpu|cuda
// forces a column.
#pragma once

#include <string>
#include <string_view>

#include "kernels/dequantize_rows.h"
#include "kernels/device.h"
#include "kernels/find_params.h"
#include "kernels/gemm_w4a16.h"
#include "kernels/gguf_quantize.h"
#include "kernels/gptq_block.h"
#include "kernels/pack_bits.h"
#include "kernels/rtn_rows.h"

namespace quantd::kernels {

// A column of the table: one variant of every operation. Null: that variant does not exist. In the
// cuda column all pointers of the arguments are the device's and the work is put on their stream;
// a launch that fails is reported by DeviceOps::take_error (and by the next call into CUDA).
struct Backend {
  std::string_view name;
  // What quantizers need.
  void (*find_params)(const FindParams&) = nullptr;
  void (*rtn_rows)(const RtnRows&) = nullptr;
  void (*pack_bits)(const PackBits&) = nullptr;
  void (*unpack_bits)(const UnpackBits&) = nullptr;
  void (*gptq_block)(const GptqBlock&) = nullptr;
  void (*dequantize_rows)(const DequantizeRows&) = nullptr;
  void (*gguf_quantize)(const GgufQuantize&) = nullptr;
  void (*gguf_dequantize)(const GgufDequantize&) = nullptr;
  // What running quantized models needs.
  void (*pack_w4)(const PackW4&) = nullptr;
  void (*unpack_w4)(const UnpackW4&) = nullptr;
  const char* (*gemm_w4a16)(const GemmW4A16&) = nullptr;
};

// Null for an unknown name, and for "cuda" where LoadCudaModule finds none.
const Backend* FindBackend(std::string_view name);
// Whether every operation of the quantizers is there.
bool Complete(const Backend& backend);

// What QUANTD_BACKEND names for data in the host's memory, "cpu" without it; read once. When it
// names something that is not there, `error` says so and callers that can report errors should
// refuse to go on. `forced` is its value.
struct ActiveBackend {
  const Backend* backend = nullptr;
  std::string error;
  std::string forced;
};
const ActiveBackend& Active();

// The cuda column, for quantizers whose data is in a GPU's memory. Null unless QUANTD_BACKEND=cuda
// asks for it: the kernels are tested one by one on a GPU, a whole job with them is not yet.
const Backend* ActiveOnDevice();

}  // namespace quantd::kernels
