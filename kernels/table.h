// The one dispatch table: every operation in every variant. QUANTD_BACKEND=reference|cpu|cuda
// forces a column.
#pragma once

#include <string>
#include <string_view>

#include "kernels/codebook_blocks.h"
#include "kernels/dequantize_rows.h"
#include "kernels/device.h"
#include "kernels/embed_rows.h"
#include "kernels/find_params.h"
#include "kernels/gate_rows.h"
#include "kernels/gemm_w4a16.h"
#include "kernels/gemm_w4a32.h"
#include "kernels/gemm_w8a8.h"
#include "kernels/gguf_quantize.h"
#include "kernels/gptq_block.h"
#include "kernels/hadamard_rows.h"
#include "kernels/hqq_groups.h"
#include "kernels/int8_rows.h"
#include "kernels/log_prob_rows.h"
#include "kernels/norm_rows.h"
#include "kernels/pack_bits.h"
#include "kernels/quantize_rows.h"
#include "kernels/rope_heads.h"
#include "kernels/rtn_rows.h"
#include "kernels/step_attention.h"
#include "kernels/step_product.h"

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
  void (*quantize_codebook)(const QuantizeCodebook&) = nullptr;
  void (*dequantize_codebook)(const DequantizeCodebook&) = nullptr;
  int (*hqq_groups)(const HqqGroups&) = nullptr;
  void (*int8_rows)(const Int8Rows&) = nullptr;
  // What running quantized models needs.
  const char* (*hadamard_rows)(const HadamardRows&) = nullptr;
  void (*gemm_w4a32)(const GemmW4A32&) = nullptr;
  void (*unpack_w4a32)(const UnpackW4A32&) = nullptr;
  void (*pack_w4)(const PackW4&) = nullptr;
  void (*unpack_w4)(const UnpackW4&) = nullptr;
  const char* (*gemm_w4a16)(const GemmW4A16&) = nullptr;
  void (*quantize_rows)(const QuantizeRows&) = nullptr;
  const char* (*gemm_w8a8)(const GemmW8A8&) = nullptr;
  void (*norm_rows)(const NormRows&) = nullptr;
  void (*gate_rows)(const GateRows&) = nullptr;
  void (*rope_heads)(const RopeHeads&) = nullptr;
  void (*log_prob_rows)(const LogProbRows&) = nullptr;
  // What a decode step is made of.
  void (*embed_rows)(const EmbedRows&) = nullptr;
  const char* (*step_product)(const StepProduct&) = nullptr;
  const char* (*step_attention)(const StepAttention&) = nullptr;
};

// Null for an unknown name, and for "cuda" where LoadCudaModule finds none.
const Backend* FindBackend(std::string_view name);
// Whether every operation of the quantizers is there.
bool Complete(const Backend& backend);

// What QUANTD_BACKEND asks of data in the host's memory: that column, and the cpu column where it
// is not set or names cuda; read once. When it names something that is not there, `error` says so,
// and callers that can report errors should refuse to go on.
struct ActiveBackend {
  const Backend* backend = nullptr;
  std::string forced;  // QUANTD_BACKEND.
  std::string error;
};
const ActiveBackend& Active();

// The cuda column for data in a GPU's memory; null where the module cannot be used or
// QUANTD_BACKEND asks for another. Opens the module.
const Backend* ActiveOnDevice();

}  // namespace quantd::kernels
