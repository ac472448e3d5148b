// The formulas of gguf_plain.h as they stand.
#include <algorithm>
#include <cmath>

#include "kernels/gguf_pack.h"
#include "kernels/gguf_plain.h"
#include "kernels/half.h"

namespace quantd::kernels {
namespace {

// Zero where there is no inverse: such a block is all zeros, or too small for any code but those.
float Inverse(float d) {
  const float inverse = d == 0 ? 0.0f : 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

void Centred(GgufType type, const float* weight, Codes32* codes) {
  const int half = type == GgufType::kQ4_0 ? 8 : 16;
  float extreme = 0;
  for (int i = 0; i < 32; ++i) {
    if (std::abs(weight[i]) > std::abs(extreme)) extreme = weight[i];
  }
  const float d = extreme / static_cast<float>(-half);
  const float inverse = Inverse(d);
  codes->d = FloatToHalf(d);
  for (int i = 0; i < 32; ++i) {
    const float steps = weight[i] * inverse + (static_cast<float>(half) + 0.5f);
    codes->code[i] = static_cast<uint8_t>(std::min(static_cast<int>(steps), 2 * half - 1));
  }
}

void FromMinimum(GgufType type, const float* weight, Codes32* codes) {
  const int levels = type == GgufType::kQ4_1 ? 15 : 31;
  const auto [low, high] = std::minmax_element(weight, weight + 32);
  const float d = (*high - *low) / static_cast<float>(levels);
  const float inverse = Inverse(d);
  codes->d = FloatToHalf(d);
  codes->m = FloatToHalf(*low);
  for (int i = 0; i < 32; ++i) {
    const float steps = (weight[i] - *low) * inverse + 0.5f;
    codes->code[i] = static_cast<uint8_t>(std::min(static_cast<int>(steps), levels));
  }
}

void Bytes(const float* weight, Codes32* codes) {
  float extreme = 0;
  for (int i = 0; i < 32; ++i) extreme = std::max(extreme, std::abs(weight[i]));
  const float d = extreme / 127;
  const float inverse = Inverse(d);
  codes->d = FloatToHalf(d);
  for (int i = 0; i < 32; ++i) {
    codes->code[i] = static_cast<uint8_t>(static_cast<int>(std::round(weight[i] * inverse)) + 128);
  }
}

}  // namespace

void PlainBlockReference(GgufType type, const float* weight, uint8_t* block) {
  Codes32 codes;
  if (type == GgufType::kQ8_0) {
    Bytes(weight, &codes);
  } else if (type == GgufType::kQ4_0 || type == GgufType::kQ5_0) {
    Centred(type, weight, &codes);
  } else {
    FromMinimum(type, weight, &codes);
  }
  PackBlock32(type, codes, block);
}

}  // namespace quantd::kernels
