// Codes and scales into the bytes of a GGUF block and out again: layout only, no arithmetic but
// shifts. Shared by every variant, so that they cannot differ. Internal to the room.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/gguf_types.h"

namespace quantd::kernels {

// A block of 32: binary16 numbers as bits; m and high bits only where the type has them.
struct Codes32 {
  uint16_t d = 0;
  uint16_t m = 0;
  uint8_t code[32] = {};  // Above zero: q4_0 is 8, q5_0 16, q8_0 128 too high.
};
void PackBlock32(GgufType type, const Codes32& codes, uint8_t* block);
Codes32 UnpackBlock32(GgufType type, const uint8_t* block);

// A block of 256.
struct CodesK {
  uint16_t d = 0;
  uint16_t dmin = 0;
  int8_t scale[16] = {};  // As they count: -32 ... 31 in q3_k.
  uint8_t minimum[16] = {};
  uint8_t code[kKWeights] = {};  // Above zero: q3_k is 4, q6_k 32 too high.
};
void PackBlockK(const KLayout& layout, const CodesK& codes, uint8_t* block);
CodesK UnpackBlockK(const KLayout& layout, const uint8_t* block);

inline void PutHalf(uint16_t half, uint8_t* at) { std::memcpy(at, &half, sizeof half); }
inline uint16_t GetHalf(const uint8_t* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof half);
  return half;
}

}  // namespace quantd::kernels
