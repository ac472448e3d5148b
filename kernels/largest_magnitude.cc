// As bits the comparison needs no rule for NaN and vectorizes; a maximum is the same in any order.
#include "kernels/largest_magnitude.h"

#include <cstring>

#include "kernels/multiversion.h"

namespace quantd::kernels {

QD_MULTIVERSION float LargestMagnitude(const float* values, int64_t count) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float result;
  std::memcpy(&result, &largest, sizeof(result));
  return result;
}

}  // namespace quantd::kernels
