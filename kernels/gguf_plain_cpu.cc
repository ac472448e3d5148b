// The same formulas in loops that vectorize: extremes as integers or in two rows of lanes,
// roundings by truncation.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gguf_pack.h"
#include "kernels/gguf_plain.h"
#include "kernels/half.h"
#include "kernels/multiversion.h"

namespace quantd::kernels {
namespace {

float Inverse(float d) {
  const float inverse = d == 0 ? 0.0f : 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// Bits of the largest magnitude: for numbers that are not NaN integers compare like floats.
QD_MULTIVERSION uint32_t LargestMagnitude(const float* weight) {
  uint32_t bits[32];
  std::memcpy(bits, weight, sizeof bits);
  uint32_t largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, bits[i] & 0x7fffffff);
  return largest;
}

QD_MULTIVERSION void RoundCentred(const float* weight, float inverse, int half, uint8_t* code) {
  const float centre = static_cast<float>(half) + 0.5f;
  const int top = 2 * half - 1;
  for (int i = 0; i < 32; ++i) {
    const float steps = weight[i] * inverse + centre;
    code[i] = static_cast<uint8_t>(std::min(static_cast<int>(steps), top));
  }
}

QD_MULTIVERSION void RoundFromMinimum(const float* weight, float low, float inverse, int top,
                                      uint8_t* code) {
  for (int i = 0; i < 32; ++i) {
    const float steps = (weight[i] - low) * inverse + 0.5f;
    code[i] = static_cast<uint8_t>(std::min(static_cast<int>(steps), top));
  }
}

QD_MULTIVERSION void RoundBytes(const float* weight, float inverse, uint8_t* code) {
  for (int i = 0; i < 32; ++i) {
    // Half away from zero: the whole part, and one more when at least a half is left.
    const float steps = weight[i] * inverse;
    const float magnitude = std::abs(steps);
    const int whole = static_cast<int>(magnitude);
    const int up = magnitude - static_cast<float>(whole) >= 0.5f ? 1 : 0;
    code[i] = static_cast<uint8_t>((steps < 0 ? -(whole + up) : whole + up) + 128);
  }
}

void Range(const float* weight, float* low, float* high) {
  float lows[kLanes], highs[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    lows[lane] = std::min(weight[lane], weight[lane + kLanes]);
    highs[lane] = std::max(weight[lane], weight[lane + kLanes]);
  }
  *low = *std::min_element(lows, lows + kLanes);
  *high = *std::max_element(highs, highs + kLanes);
}

}  // namespace

void PlainBlockCpu(GgufType type, const float* weight, uint8_t* block) {
  Codes32 codes;
  if (type == GgufType::kQ4_1 || type == GgufType::kQ5_1) {
    const int levels = type == GgufType::kQ4_1 ? 15 : 31;
    float low, high;
    Range(weight, &low, &high);
    const float d = (high - low) / static_cast<float>(levels);
    codes.d = FloatToHalf(d);
    codes.m = FloatToHalf(low);
    RoundFromMinimum(weight, low, Inverse(d), levels, codes.code);
  } else {
    const uint32_t bits = LargestMagnitude(weight);
    float extreme;
    std::memcpy(&extreme, &bits, sizeof extreme);
    if (type == GgufType::kQ8_0) {
      const float d = extreme / 127;
      codes.d = FloatToHalf(d);
      RoundBytes(weight, Inverse(d), codes.code);
    } else {
      // The sign is that of the first weight of this size.
      const float* first = std::find_if(weight, weight + 32,
                                        [&](float value) { return std::abs(value) == extreme; });
      const int half = type == GgufType::kQ4_0 ? 8 : 16;
      const float d = *first / static_cast<float>(-half);
      codes.d = FloatToHalf(d);
      RoundCentred(weight, Inverse(d), half, codes.code);
    }
  }
  PackBlock32(type, codes, block);
}

}  // namespace quantd::kernels
