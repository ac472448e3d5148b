// The layouts drawn in gguf_types.h, byte by byte; the planes of codes are loops over 32 bytes that
// compilers vectorize.
#include "kernels/gguf_pack.h"

#include "kernels/multiversion.h"

namespace quantd::kernels {
namespace {

// Where a block of 32 has its parts; -1: it has none.
struct Layout32 {
  GgufType type;
  int m_at, high_at, low_at;
};
constexpr Layout32 kLayouts32[] = {
    {GgufType::kQ4_0, -1, -1, 2},
    {GgufType::kQ4_1, 2, -1, 4},
    {GgufType::kQ5_0, -1, 2, 6},
    {GgufType::kQ5_1, 2, 4, 8},
};

const Layout32* FindLayout32(GgufType type) {
  for (const Layout32& layout : kLayouts32) {
    if (layout.type == type) return &layout;
  }
  return nullptr;
}

QD_MULTIVERSION void OrShifted(const uint8_t* codes, int drop, int mask, int shift,
                               uint8_t* plane) {
  for (int i = 0; i < kRun; ++i) {
    plane[i] = static_cast<uint8_t>(plane[i] | ((codes[i] >> drop) & mask) << shift);
  }
}

QD_MULTIVERSION void TakeShifted(const uint8_t* plane, int shift, int mask, int lift,
                                 uint8_t* codes) {
  for (int i = 0; i < kRun; ++i) {
    codes[i] = static_cast<uint8_t>(codes[i] | ((plane[i] >> shift) & mask) << lift);
  }
}

// Eight scales and eight minima of 6 bits in 12 bytes (q4_k, q5_k).
void PackScalesAndMinima(const CodesK& codes, uint8_t* at) {
  for (int j = 0; j < 4; ++j) {
    const int scale = codes.scale[j + 4];
    const int minimum = codes.minimum[j + 4];
    at[j] = static_cast<uint8_t>(codes.scale[j] | (scale >> 4) << 6);
    at[j + 4] = static_cast<uint8_t>(codes.minimum[j] | (minimum >> 4) << 6);
    at[j + 8] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
  }
}

void UnpackScalesAndMinima(const uint8_t* at, CodesK* codes) {
  for (int j = 0; j < 4; ++j) {
    codes->scale[j] = static_cast<int8_t>(at[j] & 63);
    codes->minimum[j] = at[j + 4] & 63;
    codes->scale[j + 4] = static_cast<int8_t>((at[j + 8] & 15) | (at[j] >> 6) << 4);
    codes->minimum[j + 4] = static_cast<uint8_t>((at[j + 8] >> 4) | (at[j + 4] >> 6) << 4);
  }
}

// Sixteen scales of 6 bits in 12 bytes, stored 32 too high (q3_k).
void PackSignedScales(const CodesK& codes, uint8_t* at) {
  std::memset(at, 0, 12);
  for (int j = 0; j < 16; ++j) {
    const int stored = codes.scale[j] + 32;
    at[j % 8] = static_cast<uint8_t>(at[j % 8] | (stored & 15) << (4 * (j / 8)));
    at[8 + j % 4] = static_cast<uint8_t>(at[8 + j % 4] | (stored >> 4) << (2 * (j / 4)));
  }
}

void UnpackSignedScales(const uint8_t* at, CodesK* codes) {
  for (int j = 0; j < 16; ++j) {
    const int low = (at[j % 8] >> (4 * (j / 8))) & 15;
    const int high = (at[8 + j % 4] >> (2 * (j / 4))) & 3;
    codes->scale[j] = static_cast<int8_t>((low | high << 4) - 32);
  }
}

}  // namespace

void PackBlock32(GgufType type, const Codes32& codes, uint8_t* block) {
  PutHalf(codes.d, block);
  if (type == GgufType::kQ8_0) {
    for (int i = 0; i < 32; ++i) block[2 + i] = static_cast<uint8_t>(codes.code[i] - 128);
    return;
  }
  const Layout32& layout = *FindLayout32(type);
  if (layout.m_at >= 0) PutHalf(codes.m, block + layout.m_at);
  for (int i = 0; i < 16; ++i) {
    block[layout.low_at + i] =
        static_cast<uint8_t>((codes.code[i] & 15) | (codes.code[i + 16] & 15) << 4);
  }
  if (layout.high_at < 0) return;
  uint32_t high = 0;
  for (int i = 0; i < 32; ++i) high |= static_cast<uint32_t>(codes.code[i] >> 4 & 1) << i;
  std::memcpy(block + layout.high_at, &high, sizeof high);
}

Codes32 UnpackBlock32(GgufType type, const uint8_t* block) {
  Codes32 codes;
  codes.d = GetHalf(block);
  if (type == GgufType::kQ8_0) {
    for (int i = 0; i < 32; ++i) codes.code[i] = static_cast<uint8_t>(block[2 + i] + 128);
    return codes;
  }
  const Layout32& layout = *FindLayout32(type);
  if (layout.m_at >= 0) codes.m = GetHalf(block + layout.m_at);
  for (int i = 0; i < 16; ++i) {
    codes.code[i] = block[layout.low_at + i] & 15;
    codes.code[i + 16] = block[layout.low_at + i] >> 4;
  }
  if (layout.high_at < 0) return codes;
  uint32_t high;
  std::memcpy(&high, block + layout.high_at, sizeof high);
  for (int i = 0; i < 32; ++i) {
    codes.code[i] = static_cast<uint8_t>(codes.code[i] | (high >> i & 1) << 4);
  }
  return codes;
}

void PackBlockK(const KLayout& layout, const CodesK& codes, uint8_t* block) {
  std::memset(block, 0, static_cast<size_t>(FindGgufBlock(layout.type)->bytes));
  PutHalf(codes.d, block + layout.d_at);
  if (layout.affine) PutHalf(codes.dmin, block + layout.dmin_at);
  uint8_t* scales = block + layout.scales_at;
  if (layout.type == GgufType::kQ3K) {
    PackSignedScales(codes, scales);
  } else if (layout.type == GgufType::kQ6K) {
    std::memcpy(scales, codes.scale, 16);
  } else if (layout.type == GgufType::kQ2K) {
    for (int j = 0; j < 16; ++j) {
      scales[j] = static_cast<uint8_t>(codes.scale[j] | codes.minimum[j] << 4);
    }
  } else {
    PackScalesAndMinima(codes, scales);
  }
  const int low_mask = (1 << layout.low_bits) - 1;
  const int high_mask = (1 << layout.high_bits) - 1;
  for (int run = 0; run < kKWeights / kRun; ++run) {
    const RunPlace low = LowPlace(layout, run);
    OrShifted(codes.code + run * kRun, 0, low_mask, low.shift, block + low.at);
    if (layout.high_bits == 0) continue;
    const RunPlace high = HighPlace(layout, run);
    OrShifted(codes.code + run * kRun, layout.low_bits, high_mask, high.shift, block + high.at);
  }
}

CodesK UnpackBlockK(const KLayout& layout, const uint8_t* block) {
  CodesK codes;
  codes.d = GetHalf(block + layout.d_at);
  if (layout.affine) codes.dmin = GetHalf(block + layout.dmin_at);
  const uint8_t* scales = block + layout.scales_at;
  if (layout.type == GgufType::kQ3K) {
    UnpackSignedScales(scales, &codes);
  } else if (layout.type == GgufType::kQ6K) {
    std::memcpy(codes.scale, scales, 16);
  } else if (layout.type == GgufType::kQ2K) {
    for (int j = 0; j < 16; ++j) {
      codes.scale[j] = static_cast<int8_t>(scales[j] & 15);
      codes.minimum[j] = scales[j] >> 4;
    }
  } else {
    UnpackScalesAndMinima(scales, &codes);
  }
  const int low_mask = (1 << layout.low_bits) - 1;
  const int high_mask = (1 << layout.high_bits) - 1;
  for (int run = 0; run < kKWeights / kRun; ++run) {
    const RunPlace low = LowPlace(layout, run);
    TakeShifted(block + low.at, low.shift, low_mask, 0, codes.code + run * kRun);
    if (layout.high_bits == 0) continue;
    const RunPlace high = HighPlace(layout, run);
    TakeShifted(block + high.at, high.shift, high_mask, layout.low_bits, codes.code + run * kRun);
  }
  return codes;
}

}  // namespace quantd::kernels
