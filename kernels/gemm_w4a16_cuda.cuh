// Decoding of packed 4-bit weights into the fragments of mma.m16n8k16 and wgmma, and the types that
// the products share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/module_cuda.cuh"

namespace quantd::kernels {

// One 16-bit format: pairs, conversions and the matrix instruction.
struct Half {
  using Pair = half2;
  static __device__ uint32_t Bits(Pair pair) { return *reinterpret_cast<uint32_t*>(&pair); }
  static __device__ Pair FromBits(uint32_t bits) { return *reinterpret_cast<Pair*>(&bits); }
  static __device__ Pair Both(float value) { return __float2half2_rn(value); }
  static __device__ Pair Make(float low, float high) { return __floats2half2_rn(low, high); }
  static __device__ float ToFloat(uint16_t value) { return __half2float(__ushort_as_half(value)); }
  static __device__ uint16_t FromFloat(float value) {
    return __half_as_ushort(__float2half_rn(value));
  }
  // d[4] += a[4 pairs] * b[2 pairs]: 16 x 16 times 16 x 8.
  static __device__ void Multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

struct Bfloat {
  using Pair = __nv_bfloat162;
  static __device__ uint32_t Bits(Pair pair) { return *reinterpret_cast<uint32_t*>(&pair); }
  static __device__ Pair FromBits(uint32_t bits) { return *reinterpret_cast<Pair*>(&bits); }
  static __device__ Pair Both(float value) { return __float2bfloat162_rn(value); }
  static __device__ Pair Make(float low, float high) { return __floats2bfloat162_rn(low, high); }
  static __device__ float ToFloat(uint16_t value) {
    return __uint_as_float(static_cast<uint32_t>(value) << 16);
  }
  static __device__ uint16_t FromFloat(float value) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
  static __device__ void Multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

template <uint32_t kMask, uint32_t kOr>
__device__ inline uint32_t AndOr(uint32_t value) {
  uint32_t result;
  // (value & kMask) | kOr in one instruction.
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(value), "n"(kMask), "n"(kOr));
  return result;
}

// code - zero of the eight codes of a word; `zero` per row (lane / 4 and that + 8). Codes are put
// into the low bits of a float whose exponent makes them integers, and what that added is taken off
// again: exact for integer zeros, rounded once for others.
template <W4Kind kKind>
__device__ inline void DecodeWord(uint32_t word, const half2 (&zero)[2], uint32_t (&a)[4], Half) {
  const uint32_t shifted = word >> 8;
  const uint32_t low[4] = {AndOr<0x000f000f, 0x64006400>(word), AndOr<0x00f000f0, 0x64006400>(word),
                           AndOr<0x000f000f, 0x64006400>(shifted),
                           AndOr<0x00f000f0, 0x64006400>(shifted)};
  constexpr float kTaken = kKind == W4Kind::kSymmetric ? 8 : 0;
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const half2 raw = Half::FromBits(low[pair]);
    // Even pairs are 1024 + code, odd ones 1024 + 16 code.
    half2 value = pair % 2 == 0
                      ? __hsub2(raw, __float2half2_rn(1024 + kTaken))
                      : __hfma2(raw, __float2half2_rn(0.0625f), __float2half2_rn(-64 - kTaken));
    if constexpr (kKind == W4Kind::kZeroPoint) value = __hsub2(value, zero[pair % 2]);
    a[pair] = Half::Bits(value);
  }
}

template <W4Kind kKind>
__device__ inline void DecodeWord(uint32_t word, const __nv_bfloat162 (&zero)[2], uint32_t (&a)[4],
                                  Bfloat) {
  constexpr float kTaken = kKind == W4Kind::kSymmetric ? 8 : 0;
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const __nv_bfloat162 raw = Bfloat::FromBits(AndOr<0x000f000f, 0x43004300>(word >> (4 * pair)));
    // 128 + code.
    __nv_bfloat162 value = __hsub2(raw, __float2bfloat162_rn(128 + kTaken));
    if constexpr (kKind == W4Kind::kZeroPoint) value = __hsub2(value, zero[pair % 2]);
    a[pair] = Bfloat::Bits(value);
  }
}

// Tables: 256 pairs of values, once for each of the 32 banks of shared memory, so that lanes never
// wait for each other. table[byte * 32 + lane].
constexpr int kTableBytes = 256 * 32 * 4;

__device__ inline void DecodeWord(uint32_t word, const uint32_t* table_of_lane, uint32_t (&a)[4]) {
  const char* table = reinterpret_cast<const char*>(table_of_lane);
  a[0] = *reinterpret_cast<const uint32_t*>(table + (word << 7 & 0x7f80));
  a[1] = *reinterpret_cast<const uint32_t*>(table + (word >> 1 & 0x7f80));
  a[2] = *reinterpret_cast<const uint32_t*>(table + (word >> 9 & 0x7f80));
  a[3] = *reinterpret_cast<const uint32_t*>(table + (word >> 17 & 0x7f80));
}

struct TableValues {
  float value[16];
};

template <typename Type>
__device__ void FillTable(uint32_t* table, const TableValues& values) {
  for (int i = threadIdx.x; i < 256 * 32; i += blockDim.x) {
    const int byte = i / 32;
    table[i] = Type::Bits(Type::Make(values.value[byte & 15], values.value[byte >> 4]));
  }
}

// The products by how many rows of input they are made for; each returns null when it has done the
// work and an error's text otherwise.
const char* GemmW4Small(const GemmW4A16& args);  // m <= kW4SmallRows
const char* GemmW4Wgmma(const GemmW4A16& args);  // Hopper, any m
constexpr int64_t kW4SmallRows = 16;

}  // namespace quantd::kernels
