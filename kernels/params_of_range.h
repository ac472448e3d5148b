// find_params.h's rule for one group's smallest and largest weight, shared by every variant so that
// they cannot differ.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/half.h"
#include "kernels/host_device.h"

namespace quantd::kernels {

struct GroupParams {
  uint16_t scale = 0;
  uint8_t zero = 0;
};

// The range of the search's i-th step.
QD_HOST_DEVICE inline float SearchFactor(int step) {
  return 1.0f - static_cast<float>(step) / 100.0f;
}

// binary16 between its smallest number, because a scale of zero would divide by zero, and 65504.
QD_HOST_DEVICE inline uint16_t StoredScale(float scale) {
  const uint16_t half = FloatToHalf(scale);
  return half < 0x0001 ? 0x0001 : half > 0x7bff ? 0x7bff : half;
}

QD_HOST_DEVICE inline GroupParams ParamsOfRange(float low, float high, int bits, bool symmetric) {
  const float code_max = static_cast<float>((1 << bits) - 1);
  low = low < 0 ? low : 0;
  high = high > 0 ? high : 0;
  if (low == 0 && high == 0) {
    low = -1;
    high = 1;
  }
  GroupParams params;
  if (symmetric) {
    params.scale = StoredScale(2 * (-low > high ? -low : high) / code_max);
    params.zero = static_cast<uint8_t>(1 << (bits - 1));
    return params;
  }
  params.scale = StoredScale((high - low) / code_max);
  const float zero = nearbyintf(-low / HalfToFloat(params.scale));
  if (zero < 1) {
    params.scale = StoredScale(high / (code_max - 1));
    params.zero = 1;
  } else {
    params.zero = static_cast<uint8_t>(zero < code_max ? zero : code_max);
  }
  return params;
}

}  // namespace quantd::kernels
