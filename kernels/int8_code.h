// How a row of numbers becomes int8 with one scale: what every kernel that rounds activations
// shares, on the host and on the GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/host_device.h"

namespace quantd::kernels {

// Of a row whose largest magnitude is `largest`; that is infinite or NaN where the row holds such a
// number.
struct Int8Scaling {
  float scale;    // largest / 127; 1 for a row of zeros, NaN where a number is not finite.
  float inverse;  // 127 / largest; 0: all codes are 0.
};
QD_HOST_DEVICE inline Int8Scaling Int8ScalingOf(float largest) {
  if (!(largest <= 3.4028234663852886e38f)) return {__builtin_nanf(""), 0};
  if (largest == 0) return {1, 0};
  return {largest / 127.0f, 127.0f / largest};
}

// Halves to even. A subnormal largest has no finite inverse; its codes stop at the ends.
QD_HOST_DEVICE inline float Int8Code(float value, float inverse) {
  const float code = rintf(value * inverse);
  if (!(inverse > 0) || code != code) return 0;
  return code < -127.0f ? -127.0f : code > 127.0f ? 127.0f : code;
}

// With a scale that is known beforehand; NaN becomes 0.
QD_HOST_DEVICE inline int8_t StaticInt8Code(float value, float scale) {
  const float code = rintf(value / scale);
  return static_cast<int8_t>(code < -128.0f  ? -128.0f
                             : code > 127.0f ? 127.0f
                             : code == code  ? code
                                             : 0.0f);
}

}  // namespace quantd::kernels
