// Eight neighbouring 16-bit numbers, the 16 bytes that a thread reads and writes at once.
#pragma once

#include "kernels/gemm_w4a16_cuda.cuh"

namespace quantd::kernels {

template <typename Type>
__device__ inline void Widen(const uint4& eight, float (&x)[8]) {
  const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    x[i] = Type::ToFloat(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
  }
}

template <typename Type>
__device__ inline uint4 Narrow(const float (&x)[8]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    words[i] = Type::FromFloat(x[2 * i]) | static_cast<uint32_t>(Type::FromFloat(x[2 * i + 1]))
                                               << 16;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// x as the 16-bit type holds it.
template <typename Type>
__device__ inline float Rounded(float x) {
  return Type::ToFloat(Type::FromFloat(x));
}

// Numbers of both, added and rounded.
template <typename Type>
__device__ inline uint4 Added(const uint4& a, const uint4& b) {
  float x[8], y[8];
  Widen<Type>(a, x);
  Widen<Type>(b, y);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] += y[i];
  return Narrow<Type>(x);
}

// What the kernel before this one on the stream wrote, which the first-level cache may hold in an
// older form: past that cache.
__device__ inline uint4 LoadFresh(const uint16_t* from) {
  return __ldcg(reinterpret_cast<const uint4*>(from));
}

}  // namespace quantd::kernels
