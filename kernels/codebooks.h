// The tables that codes of 4 and 8 bits point into, as bitsandbytes defines them: NF4 and FP4 for
// weights (Dettmers et al., "QLoRA", 2023), the dynamic map for the blocks' scales (Dettmers et
// al., "8-bit optimizers via block-wise quantization", 2021).
#pragma once

#include <cstdint>

namespace quantd::kernels {

// A number v in [-1, 1] has the code codes[r], where r counts the bounds that are below v: a number
// on a bound belongs to the lower entry.
struct Codebook {
  int entries = 0;                 // At most 256.
  const float* values = nullptr;   // [entries], by code.
  const float* bounds = nullptr;   // [entries - 1], rising.
  const uint8_t* codes = nullptr;  // [entries], by rank; a permutation.
};

// They live for ever.
const Codebook& Nf4Codebook();
const Codebook& Fp4Codebook();
// Signed, 256 entries. bitsandbytes builds it in float32 with steps that depend on the machine's
// vector width; this one is correctly rounded, so single entries differ in the last bit.
const Codebook& DynamicCodebook();

}  // namespace quantd::kernels
