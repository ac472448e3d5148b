// The types whose codes follow from a formula: 16 bits, and blocks of 32 by their extremes, as the
// format defines them. Internal to the room.
#pragma once

#include <cstdint>

#include "kernels/gguf_types.h"

namespace quantd::kernels {

// One block of 32 (q8_0, q4_0, q4_1, q5_0, q5_1) in the format's own rounding:
//   q8_0        d = max|w| / 127, q = w / d rounded half away from zero
//   q4_0, q5_0  d = the weight furthest from zero (the first of equals) / -8 or -16,
//               q = floor(w / d + 8.5 or 16.5), at most 15 or 31
//   q4_1, q5_1  d = (max - min) / 15 or 31, q = floor((w - min) / d + 0.5)
// 1 / d is taken before d is rounded to binary16; product and sum are rounded one by one.
void PlainBlockReference(GgufType type, const float* weight, uint8_t* block);
void PlainBlockCpu(GgufType type, const float* weight, uint8_t* block);

// Round to nearest even; NaN stays NaN.
inline uint16_t FloatToBfloat16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 64);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float Bfloat16ToFloat(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace quantd::kernels
