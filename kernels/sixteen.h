// The two 16-bit number formats as raw bits, on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/half.h"

namespace quantd::kernels {

inline float BfloatToFloat(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// To nearest, ties to even; NaN stays NaN.
inline uint16_t FloatToBfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float FromSixteen(uint16_t value, bool bfloat16) {
  return bfloat16 ? BfloatToFloat(value) : HalfToFloat(value);
}
inline uint16_t ToSixteen(float value, bool bfloat16) {
  return bfloat16 ? FloatToBfloat(value) : FloatToHalf(value);
}

// Half the distance of neighbours, relative to the number.
inline double UnitRoundoff(bool bfloat16) { return bfloat16 ? 0x1p-8 : 0x1p-11; }

}  // namespace quantd::kernels
