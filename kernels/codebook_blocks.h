// Codes of a codebook for blocks of numbers that share their largest magnitude, and back
// (codebooks.h has the tables): NF4 and FP4 weights, and the 8-bit form of their scales.
#pragma once

#include <cstdint>

#include "kernels/codebooks.h"

namespace quantd::kernels {

// The `count` numbers of `values` (f32, finite) are cut into blocks of `block_size`, the last one
// may be shorter. absmax[b] = max|v| of block b; codes[i] = the codebook's code for
// clamp(v * (1 / max(absmax, 1e-38)), -1, 1), in float32. In and out disjoint. Allocates nothing,
// thread-safe.
struct QuantizeCodebook {
  const float* values = nullptr;
  int64_t count = 0;
  int64_t block_size = 64;  // > 0
  const Codebook* codebook = nullptr;
  float* absmax = nullptr;   // [ceil(count / block_size)]
  uint8_t* codes = nullptr;  // [count]
  void* stream = nullptr;    // cuda only; `codebook` stays the host's.
};

// values[i] = table[codes[i]] * absmax[i / block_size], in float32. Every code is inside the table.
// In and out disjoint. Allocates nothing, thread-safe.
struct DequantizeCodebook {
  const uint8_t* codes = nullptr;
  int64_t count = 0;
  int64_t block_size = 64;  // > 0
  const float* table = nullptr;
  const float* absmax = nullptr;
  float* values = nullptr;
  void* stream = nullptr;  // cuda only.
};

void QuantizeCodebookReference(const QuantizeCodebook& args);
void QuantizeCodebookCpu(const QuantizeCodebook& args);
void DequantizeCodebookReference(const DequantizeCodebook& args);
void DequantizeCodebookCpu(const DequantizeCodebook& args);

}  // namespace quantd::kernels
