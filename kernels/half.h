// IEEE 754 binary16 as raw bits, converted in plain integer arithmetic: scales are stored so, and
// every compiler and machine must round them alike (to nearest, ties to even).
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

namespace quantd::kernels {

QD_HOST_DEVICE inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  uint32_t bits = sign;
  if (exponent == 31) {
    bits |= 0x7f800000 | (mantissa << 13);
  } else if (exponent != 0) {
    bits |= ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    // A subnormal is mantissa * 2^-24, which a float holds exactly.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    uint32_t magnitude_bits;
    std::memcpy(&magnitude_bits, &magnitude, sizeof(magnitude_bits));
    bits |= magnitude_bits;
  }
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Beyond 65504 becomes infinity, NaN stays NaN.
QD_HOST_DEVICE inline uint16_t FloatToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // >= 65520 rounds up.
  if (magnitude < 0x33000001) return sign;  // <= 2^-25 rounds to zero.
  const uint32_t exponent = magnitude >> 23;
  const uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
  // Bits to drop: 13 for a normal half, more the deeper the subnormal.
  const uint32_t drop = exponent >= 113 ? 13 : 126 - exponent;
  const uint32_t kept = mantissa >> drop;
  const uint32_t rest = mantissa & ((1u << drop) - 1);
  const uint32_t tie = 1u << (drop - 1);
  const uint32_t up = rest > tie || (rest == tie && (kept & 1)) ? 1 : 0;
  // A carry out of the mantissa moves into the exponent, which is the right next number.
  const uint32_t base = exponent >= 113 ? (exponent - 113) << 10 : 0;
  return static_cast<uint16_t>(sign | (base + kept + up));
}

}  // namespace quantd::kernels
