// The largest |x| of a run of floats.
#pragma once

#include <cstdint>

namespace quantd::kernels {

// 0 for none. The values are finite.
float LargestMagnitude(const float* values, int64_t count);

}  // namespace quantd::kernels
