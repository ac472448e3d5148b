// Rounding to the nearest integer, halves to even, in two additions that every instruction set
// vectorizes.
#pragma once

#include "kernels/host_device.h"

namespace quantd::kernels {

// Right for |value| <= 2^22: there a float has half a unit of precision left above the integers.
// Needs a compiler that does not reassociate (no -ffast-math).
QD_HOST_DEVICE inline float RoundHalfEven(float value) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: its last bit is worth one.
  return (value + kMagic) - kMagic;
}

}  // namespace quantd::kernels
