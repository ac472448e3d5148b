// The one dispatch table: every operation in every variant. QUANTD_BACKEND=reference|cpu|cuda
// forces a column.
#pragma once

#include <string>
#include <string_view>

#include "kernels/codebook_blocks.h"
#include "kernels/dequantize_rows.h"
#include "kernels/find_params.h"
#include "kernels/gguf_quantize.h"
#include "kernels/gptq_block.h"
#include "kernels/hqq_groups.h"
#include "kernels/int8_rows.h"
#include "kernels/pack_bits.h"
#include "kernels/rtn_rows.h"

namespace quantd::kernels {

// A column of the table: one variant of every operation. Null: that variant does not exist.
struct Backend {
  std::string_view name;
  void (*find_params)(const FindParams&);
  void (*rtn_rows)(const RtnRows&);
  void (*pack_bits)(const PackBits&);
  void (*unpack_bits)(const UnpackBits&);
  void (*gptq_block)(const GptqBlock&);
  void (*dequantize_rows)(const DequantizeRows&);
  void (*gguf_quantize)(const GgufQuantize&);
  void (*gguf_dequantize)(const GgufDequantize&);
  void (*quantize_codebook)(const QuantizeCodebook&);
  void (*dequantize_codebook)(const DequantizeCodebook&);
  int (*hqq_groups)(const HqqGroups&);
  void (*int8_rows)(const Int8Rows&);
};

// Null for an unknown name. A backend may have null operations: see Complete.
const Backend* FindBackend(std::string_view name);
bool Complete(const Backend& backend);

// What QUANTD_BACKEND names, "cpu" without it; read once. When it names something that is not
// there, `error` says so and `backend` is the cpu column, which callers that can report errors
// should then refuse to use.
struct ActiveBackend {
  const Backend* backend = nullptr;
  std::string error;
};
const ActiveBackend& Active();

}  // namespace quantd::kernels
